#!/bin/bash
# The commands of an instance, under whose names this file stands in a folder of PATH. They note how they were called
# and do as little as the script needs. FAKE_ROOT: the instance's /; FAKE_S3: what is in the bucket; FAKE_FAILS: a call's
# beginning that fails, with the words of FAKE_WORDS.
set -euo pipefail
name=${0##*/}
call="$name $*"
printf '%s\n' "$call" >>"$FAKE_ROOT/calls"
if [[ -n ${FAKE_FAILS:-} && $call == "$FAKE_FAILS"* ]]; then
  echo "$FAKE_WORDS" >&2
  exit 1
fi
case $call in
  "aws ecr get-login-password"*) echo "a password" ;;
  "aws s3 sync"*) cp -r "$FAKE_S3/." "${@: -1}" ;;
  "aws ssm get-parameter"* | "aws secretsmanager get-secret-value"*) cat "$FAKE_ROOT/keys" ;;
  "docker login"*) grep -qx "a password" ;;
  "docker image inspect"*) echo "${FAKE_ARCHITECTURE:-amd64}" ;;
  "docker exec"*)
    # In the container the model stands elsewhere.
    cd "$FAKE_ROOT/var/lib/servekit/model"
    "$FAKE_PYTHON" "${@: -2:1}" "${*: -1:1}"
    ;;
  "systemctl is-failed"*) [[ -e $FAKE_ROOT/ended ]] || { [[ -e $FAKE_ROOT/pid ]] && ! kill -0 "$(<"$FAKE_ROOT/pid")"; } ;;
  "systemctl enable --now servekit"*) [[ -z ${FAKE_START:-} ]] || "$FAKE_START" ;;
  "journalctl"*) echo "error: a worker died while it loaded" ;;
  "nvidia-smi"*) echo "GPU 0: NVIDIA A10G" ;;
  "cloud-init query"*) echo i-0123456789abcdef0 ;;
esac
