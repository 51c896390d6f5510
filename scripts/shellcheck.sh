#!/usr/bin/env bash
# Every shell script there is, read by shellcheck; without it, by the shell alone.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts=(scripts/*.sh .ci/run packaging/deb/postinst packaging/deb/prerm packaging/deb/postrm)
for script in "${scripts[@]}"; do
    case $(head -n 1 "$script") in *bash) bash -n "$script" ;; *) sh -n "$script" ;; esac
done
if command -v shellcheck >/dev/null; then
    shellcheck --severity=warning "${scripts[@]}"
else
    echo '##### SKIPPED: shellcheck is not here #####' >&2
fi
