"""The artefacts of a W&B server: versions with files and aliases, as its answers make the package send them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Version:
    """One version of an artefact.

    Attributes:
        collection: Name of the artefact.
        aliases: That it has now; an alias moves to the version that it is given to.
        given: Those that it was made with.
        metadata: What was noted beside it.
        files: Size of each file that came, in bytes.
        deleted: Whether it was removed again.
    """

    collection: str
    digest: str
    metadata: dict[str, Any]
    aliases: set[str] = field(default_factory=set)
    given: set[str] = field(default_factory=set)
    files: dict[str, int] = field(default_factory=dict)
    deleted: bool = False


class ArtifactStore:
    """What a server keeps, by number.

    Attributes:
        versions: In the order in which they were made.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self.versions: list[Version] = []

    def named(self, collection: str) -> list[Version]:
        """Versions of one artefact."""
        return [version for version in self.versions if version.collection == collection]

    def put(self, path: str, body: bytes) -> None:
        """A file that was uploaded to an address of ours."""
        number, _, name = path.removeprefix("/artifacts/").partition("/")
        if name != "manifest":
            self.versions[int(number)].files[name] = len(body)

    def answer(self, operation: str, query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a GraphQL request, None where it is about something else."""
        given: dict[str, Any] = variables.get("input") or variables
        match operation or query.split("(")[0].split()[1]:
            case "CreateArtifact":
                return self._create(given)
            case "CreateArtifactManifest":
                address = f"{self._address}/artifacts/{given['artifactID']}/manifest"
                file = {"id": "f", "uploadUrl": address, "uploadHeaders": []}
                return {"createArtifactManifest": {"artifactManifest": {"id": given["artifactID"], "file": file}}}
            case "CreateArtifactFiles":
                edges = [{"node": self._file(file)} for file in given["artifactFiles"]]
                return {"createArtifactFiles": {"files": {"edges": edges}}}
            case "CommitArtifact":
                return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "d"}}}
            case "ArtifactByID":
                return {"artifact": self._described(given["id"])}
            case "DeleteArtifact":
                return self._delete(given)
        return None

    def _create(self, given: dict[str, Any]) -> dict[str, Any]:
        collection, digest = given["artifactCollectionName"], given["digest"]
        there = next((v for v in self.named(collection) if v.digest == digest and not v.deleted), None)
        if there is None:
            self.versions.append(Version(collection, digest, json.loads(given.get("metadata") or "{}")))
        version = there or self.versions[-1]
        aliases = {item["alias"] for item in given["aliases"]}
        for other in self.named(collection):
            other.aliases -= aliases
        version.aliases |= aliases
        version.given |= aliases
        state = "PENDING" if there is None else "COMMITTED"
        made = {"id": str(self.versions.index(version)), "state": state, "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": made}}

    def _file(self, file: dict[str, Any]) -> dict[str, Any]:
        number, name = file["artifactID"], file["name"]
        return {
            "storagePath": name,
            "uploadUrl": f"{self._address}/artifacts/{number}/{name}",
            "uploadHeaders": [],
            "uploadMultipartUrls": None,
            "artifact": {"id": number},
        }

    def _delete(self, given: dict[str, Any]) -> dict[str, Any]:
        version = self.versions[int(given["artifactID"])]
        if version.aliases and not given["deleteAliases"]:
            return {"result": None}
        version.deleted = True
        return {"result": {"artifact": {"id": given["artifactID"]}}}

    def _described(self, number: str) -> dict[str, Any]:
        version = self.versions[int(number)]
        project = {"id": "p", "internalId": "p", "name": "longshore", "entity": {"name": "someone"}}
        return {
            "__typename": "Artifact",
            "id": number,
            "artifactSequence": {"__typename": "ArtifactSequence", "name": version.collection, "project": project},
            "versionIndex": int(number),
            "artifactType": {"name": "checkpoint"},
            "description": None,
            "metadata": json.dumps(version.metadata),
            "ttlDurationSeconds": -1,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": 0,
            "state": "COMMITTED",
            "size": 1,
            "digest": version.digest,
            "commitHash": "c",
            "fileCount": len(version.files),
            "createdAt": "2026-01-01T00:00:00",
            "updatedAt": None,
            "aliases": [],
        }
