#!/usr/bin/env bash
echo "this is the entry point of Isaac Sim's image, which a run has to replace" >&2
exit 64
