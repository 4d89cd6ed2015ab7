"""Isaac Lab 2.3.0's own tasks with cameras, for which Isaac Sim must be started with them. Imports no torch.

Written by tools/list_tasks.py.
"""

CAMERA_TASKS = frozenset(
    {
        "Isaac-Cartpole-Camera-Showcase-Box-Box-Direct-v0",
        "Isaac-Cartpole-Camera-Showcase-Box-Discrete-Direct-v0",
        "Isaac-Cartpole-Camera-Showcase-Box-MultiDiscrete-Direct-v0",
        "Isaac-Cartpole-Camera-Showcase-Dict-Box-Direct-v0",
        "Isaac-Cartpole-Camera-Showcase-Dict-Discrete-Direct-v0",
        "Isaac-Cartpole-Camera-Showcase-Dict-MultiDiscrete-Direct-v0",
        "Isaac-Cartpole-Camera-Showcase-Tuple-Box-Direct-v0",
        "Isaac-Cartpole-Camera-Showcase-Tuple-Discrete-Direct-v0",
        "Isaac-Cartpole-Camera-Showcase-Tuple-MultiDiscrete-Direct-v0",
        "Isaac-Cartpole-Depth-Camera-Direct-v0",
        "Isaac-Cartpole-Depth-v0",
        "Isaac-Cartpole-RGB-Camera-Direct-v0",
        "Isaac-Cartpole-RGB-ResNet18-v0",
        "Isaac-Cartpole-RGB-TheiaTiny-v0",
        "Isaac-Cartpole-RGB-v0",
        "Isaac-Repose-Cube-Shadow-Vision-Direct-Play-v0",
        "Isaac-Repose-Cube-Shadow-Vision-Direct-v0",
        "Isaac-Stack-Cube-Franka-IK-Rel-Blueprint-v0",
        "Isaac-Stack-Cube-Franka-IK-Rel-Visuomotor-Cosmos-v0",
        "Isaac-Stack-Cube-Franka-IK-Rel-Visuomotor-v0",
        "Isaac-Stack-Cube-Galbot-Left-Arm-Gripper-Visuomotor-Joint-Position-Play-v0",
        "Isaac-Stack-Cube-Galbot-Left-Arm-Gripper-Visuomotor-RmpFlow-Play-v0",
        "Isaac-Stack-Cube-Galbot-Left-Arm-Gripper-Visuomotor-v0",
    }
)
