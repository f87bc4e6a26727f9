# What an instance does once, at its first start: it gets the image, the archive and the keys, starts the container, asks
# it the archive's golden request through the gateway, and tells CloudFormation how that went.
# The lines before these set STACK, REGION and the other names in capitals; BOOT_… are for tests.
set -euo pipefail
shopt -s inherit_errexit
umask 022
PATH=$PATH:/opt/aws/bin:/opt/aws/amazon-cloudwatch-agent/bin

root=${BOOT_ROOT:-}
settings=$root/etc/servekit
model=$root/var/lib/servekit/model
units=$root/etc/systemd/system
gateway=http://127.0.0.1:${BOOT_PORT:-8080}
scratch=$(mktemp -d)
settle_s=${BOOT_SETTLE_S:-30}
# Room for the golden request, for the load balancer and for telling a failure, before CloudFormation gives up.
ready_until=$((START_TIMEOUT_S - 120))
step="start"
reason=""

begin() {
  step=$1
  echo "servekit: $SECONDS s: $step"
}

fail() {
  reason=$1
  exit 1
}

# CloudFormation shows that an instance failed and not why: `kit.py deploy ec2 … apply` reads it in the log.
finish() {
  local code=$? success=true
  trap - EXIT
  if ((code)); then
    success=false
    words_of_the_container 50 || true
    echo "servekit: FAILED: $step: ${reason:-exit code $code}"
    # The agent sends what it has every 5 s, and the stack takes the instance away at once.
    sleep "${BOOT_FLUSH_S:-15}"
  else
    echo "servekit: $SECONDS s: answered right"
  fi
  rm -rf "$scratch"
  cfn-signal --success "$success" --stack "$STACK" --resource Instances --region "$REGION"
  exit "$code"
}
trap finish EXIT

words_of_the_container() {
  journalctl --lines "$1" --output cat --no-pager _SYSTEMD_UNIT=servekit.service
}

# A command whose last words become the reason if it fails.
run() {
  local words
  if ! words=$("$@" 2>&1); then
    echo "$words"
    fail "$(tail -n 1 <<<"$words" | cut -c 1-900)"
  fi
  [[ -z $words ]] || echo "$words"
}

# Package repositories and AWS's APIs may not be reached in the first seconds of an instance's life.
try() {
  local attempt
  for attempt in 1 2 3 4; do
    "$@" && return
    echo "attempt $attempt failed: $1" >&2
    sleep $((attempt * ${BOOT_PAUSE_S:-5}))
  done
  "$@"
}

install_missing() {
  local command=$1 package=$2
  if ! command -v "$command" >/dev/null; then
    run try dnf install --quiet --assumeyes "$package"
  fi
}

begin "tools"
install_missing cfn-signal aws-cfn-bootstrap
install_missing aws awscli-2

begin "CloudWatch agent"
install_missing amazon-cloudwatch-agent-ctl amazon-cloudwatch-agent
run try amazon-cloudwatch-agent-ctl -a fetch-config -m ec2 -s -c "ssm:$AGENT_CONFIGURATION"

begin "docker"
install_missing docker docker
run systemctl enable --now docker

begin "image"
registry=${IMAGE%%/*}
image_region=$(cut -d . -f 4 <<<"$registry")
export DOCKER_CONFIG=$scratch/docker
try aws ecr get-login-password --region "$image_region" >"$scratch/password"
run docker login --username AWS --password-stdin "$registry" <"$scratch/password"
run try docker pull --quiet "$IMAGE"
found=$(docker image inspect --format '{{.Architecture}}' "$IMAGE")
[[ $found == "$IMAGE_ARCHITECTURE" ]] || fail "$IMAGE is for $found, this instance needs $IMAGE_ARCHITECTURE"

begin "archive"
mkdir -p "$model"
run try aws s3 sync --only-show-errors --delete "s3://$ARCHIVE_BUCKET/$ARCHIVE_PREFIX/" "$model"
cd "$model"
run sha256sum --check --quiet <<<"$ARCHIVE_SHA256  MAR-INF/servekit.json"
python3 - >"$scratch/sums" <<'PYTHON'
import json

with open("MAR-INF/servekit.json") as file:
    for name, sha256 in json.load(file)["sha256"].items():
        print(f"{sha256}  {name}")
PYTHON
run sha256sum --check --quiet --strict "$scratch/sums"
# A file more would be imported or loaded as willingly as the others.
expected=$(wc -l <"$scratch/sums")
there=$(find . -type f ! -path ./MAR-INF/servekit.json | wc -l)
((there == expected)) || fail "$there files where the archive has $expected"
chmod -R a+rX .
cd /

begin "keys"
# Nobody on the instance passes this folder; the container sees only what is mounted out of it.
install -d -m 0700 "$settings"
rm -rf "$settings/keys"
install -d -m 0755 "$settings/keys"
if [[ $KEYS_ARN == *:secretsmanager:* ]]; then
  query=(secretsmanager get-secret-value --secret-id "$KEYS_ARN" --query SecretString)
else
  query=(ssm get-parameter --with-decryption --name "$KEYS_ARN" --query Parameter.Value)
fi
try aws "${query[@]}" --region "$REGION" --output text >"$scratch/keys.json"
# What comes is hashed; a key of this start alone asks the golden request, and goes with it.
own_id=boot$(python3 -c 'import secrets; print(secrets.token_hex(4))')
own_key=sk-$own_id-$(python3 -c 'import secrets; print(secrets.token_urlsafe(32))')
run python3 - "$scratch/keys.json" "$settings/keys" "$own_id" 3<<<"$own_key" <<'PYTHON'
import datetime
import hashlib
import json
import os
import pathlib
import sys

source, folder, own_id = sys.argv[1:]
try:
    with open(source) as file:
        keys = json.load(file)
    if not isinstance(keys, list) or not all(isinstance(key, dict) and key["sha256"] for key in keys):
        raise ValueError
except (ValueError, KeyError):
    sys.exit("the keys are no JSON list of what `kit.py keys` made")
with os.fdopen(3) as file:
    own = hashlib.sha256(file.read().strip().encode()).hexdigest()
now = datetime.datetime.now(datetime.timezone.utc)
times = [f"{time:%Y-%m-%dT%H:%M:%SZ}" for time in (now, now + datetime.timedelta(days=1))]
boot = {"id": own_id, "name": "boot", "sha256": own, "models": [], "created": times[0], "expires": times[1]}
for key in [*keys, boot]:
    path = pathlib.Path(folder, key["id"] + ".json")
    path.write_text(json.dumps(key))
    path.chmod(0o444)
PYTHON

begin "service"
instance=$(cloud-init query v1.instance_id)
options=()
if [[ $ACCELERATOR == nvidia ]]; then
  run nvidia-smi --list-gpus
  options+=(--gpus=all)
fi
if [[ $ACCELERATOR == neuron ]]; then
  options+=(--cap-add=IPC_LOCK)
  for device in "$root"/dev/neuron[0-9]*; do
    [[ -e $device ]] || fail "no Neuron device: the AMI has no driver, or this is no inf2 instance"
    options+=("--device=${device#"$root"}")
  done
fi
# Workers take memory from the node of their cores; Docker's seccomp profile asks for this.
if compgen -G "$root/sys/devices/system/node/node1" >/dev/null; then
  options+=(--cap-add=SYS_NICE)
fi
cat >"$settings/environment" <<ENVIRONMENT
IMAGE=$IMAGE
INSTANCE=$instance
LOG_GROUP=$CONTAINER_LOGS
MACHINE_OPTIONS=${options[*]}
REGION=$REGION
SERVEKIT_GATEWAY='$GATEWAY'
ENVIRONMENT
mkdir -p "$units"
cat >"$units/servekit.service" <<'UNIT'
@servekit_service@
UNIT
services=(servekit.service)
if [[ $ACCELERATOR == neuron ]]; then
  cat >"$units/servekit-neuron-monitor.service" <<'UNIT'
@neuron_monitor_service@
UNIT
  services+=(servekit-neuron-monitor.service)
fi
run systemctl daemon-reload
run systemctl enable --now "${services[@]}"

begin "ready"
until curl --silent --fail --max-time 5 --output /dev/null "$gateway/ready"; do
  if systemctl is-failed --quiet servekit.service; then
    fail "the container ended: $(words_of_the_container 1)"
  fi
  ((SECONDS < ready_until)) || fail "not in time: $(curl --silent --max-time 5 "$gateway/ready" | head -c 300)"
  sleep "${BOOT_PAUSE_S:-5}"
done

begin "golden request"
python3 - "$model/artefacts/golden.json" >"$scratch/request" <<'PYTHON'
import json
import sys

with open(sys.argv[1]) as file:
    print(json.dumps(json.load(file)["body"]))
PYTHON
left_s=$((ready_until + 60 - SECONDS))
patience_s=$((RESPONSE_TIMEOUT_S < left_s ? RESPONSE_TIMEOUT_S : left_s))
status=$(curl --silent --show-error --max-time "$patience_s" --output "$scratch/reply" --write-out '%{http_code}' \
  --header @- --header 'Content-Type: application/json' --data-binary "@$scratch/request" "$gateway/invocations" \
  <<<"Authorization: Bearer $own_key" 2>"$scratch/problem") || fail "no answer: $(cat "$scratch/problem")"
[[ $status == 200 ]] || fail "the gateway answered $status: $(head -c 300 "$scratch/reply")"
run docker exec --interactive --workdir=/opt/ml/model servekit python -c '
import pathlib, sys
from servekit.golden import Golden
golden = Golden.parse(pathlib.Path("artefacts/golden.json").read_bytes())
sys.exit(golden.verdict(sys.stdin.buffer.read()) or None)
' <"$scratch/reply"
rm -f "$settings/keys/$own_id.json"

begin "load balancer"
# It looks every 10 s and believes the second good answer. In a rolling update the signal ends another instance.
sleep "$settle_s"
