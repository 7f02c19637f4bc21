#!/usr/bin/env bash
# Fails where a C++ or CUDA file is not formatted as .clang-format says, and names the files.
# Usage: scripts/check_format.sh [--fix]
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
mapfile -d '' files < <(find . \( -name 'build*' -o -name '.*' -not -name . -o -name models -o -name runs \) -prune -o \
  -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0)
case ${1:-} in
  --fix) clang-format -i "${files[@]}" ;;
  '') printf '%s\0' "${files[@]}" | xargs -0 -n 16 -P "$(nproc)" clang-format --dry-run -Werror ;;
  *) fail format "unknown argument '$1', allowed: --fix" ;;
esac
say "${#files[@]} files, $(clang-format --version | grep -o 'version [0-9.]*')"
