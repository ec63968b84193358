#!/bin/sh
# Puts another model into service, and the one before back where the new one does not answer:
#
#   replace.sh MODEL          the model is tried on a port of its own while the service goes on; only then are they changed
#   replace.sh --back         back to the model before
#
# The service serves a link, `honeclip serve ~/honeclip/current`; what it points at is changed. Exit code 0: the new model is in
# service. 1: it is not, and the one before is (or, where even that does not come up, the last line says so). 2: wrong usage.
set -u

HONECLIP=${HONECLIP:-honeclip}                          # the program
CURRENT=${HONECLIP_CURRENT:-$HOME/honeclip/current}     # the link that the service serves
URL=${HONECLIP_URL:-http://127.0.0.1:8117}              # where the service answers
TRIAL_PORT=${HONECLIP_TRIAL_PORT:-8127}                 # where the new model is tried
WAIT_S=${HONECLIP_WAIT_S:-180}                          # seconds in which a server must be ready, and in which it must end
KEY=${HONECLIP_KEY:-}                                   # a key of the service, where it wants one
if [ "$(uname)" = Darwin ]; then
  agent=gui/$(id -u)/com.honeclip.serve
  STOP=${HONECLIP_STOP:-launchctl kill SIGTERM $agent}  # drains, exits 0, and launchd leaves it alone
  START=${HONECLIP_START:-launchctl kickstart $agent}
else
  STOP=${HONECLIP_STOP:-systemctl stop honeclip}
  START=${HONECLIP_START:-systemctl start honeclip}
fi
# a grey picture of 16 x 16 pixels
PICTURE=iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAAAAAA6mKC9AAAAD0lEQVR42mNoQAMMI1sAAAUMgAHjM1mKAAAAAElFTkSuQmCC

say() { echo "replace: $*" >&2; }

get() { # URL PATH [more of curl]: the answer, or nothing where it is no 200
  address=$1$2
  shift 2
  # the key by standard input: what stands on a command line is seen by everybody on the machine
  printf '%s\n' "${KEY:+header = \"Authorization: Bearer $KEY\"}" \
    | curl --silent --fail --noproxy '*' --max-time 60 --config - "$@" "$address"
}

fingerprint() { get "$1" /health | sed -n 's/.*"fingerprint": *"\([0-9a-f]*\)".*/\1/p'; }

within() { # SECONDS COMMAND...: whether it succeeds in time
  left=$1
  shift
  while ! "$@"; do
    [ "$left" -gt 0 ] || return 1
    left=$((left - 1))
    sleep 1
  done
}

ready() { get "$1" /readyz >/dev/null; }
gone() { ! curl --silent --noproxy '*' --max-time 5 --output /dev/null "$1/livez"; }

answers() { # URL: whether device and model do what is asked of them
  get "$1" /health | grep -q '"passed": *true' || { say "the self-check of the device is not passed"; return 1; }
  get "$1" /v1/similarity --header 'Content-Type: application/json' \
    --data "{\"images\": [\"$PICTURE\"], \"texts\": [\"a grey square\"]}" >/dev/null \
    || { say "it does not compare a picture with a text"; return 1; }
}

on_trial() { # MODEL: prints its fingerprint where it can be put into service
  KEY= # it listens at 127.0.0.1 and wants none
  log=$(mktemp)
  "$HONECLIP" serve "$1" --port "$TRIAL_PORT" 2>"$log" >/dev/null &
  trial=$!
  trap 'kill -TERM "$trial" 2>/dev/null' EXIT INT TERM
  at=http://127.0.0.1:$TRIAL_PORT
  started() { ready "$at" || ! kill -0 "$trial" 2>/dev/null; }
  within "$WAIT_S" started
  found=$(kill -0 "$trial" 2>/dev/null && ready "$at" && answers "$at" && fingerprint "$at")
  kill -TERM "$trial" 2>/dev/null
  wait "$trial" || found=
  [ -n "$found" ] || sed 's/^/  /' "$log" >&2
  rm -f "$log"
  [ -n "$found" ] && echo "$found"
}

serve_link_to() { # MODEL FINGERPRINT: whether the service runs with it
  ln -sfn "$1" "$CURRENT"
  $STOP || true # a service that is down already is no reason to give up
  within "$WAIT_S" gone "$URL" || say "the service does not end"
  $START || return 1
  within "$WAIT_S" ready "$URL" && answers "$URL" && { [ -z "$2" ] || [ "$(fingerprint "$URL")" = "$2" ]; }
}

[ $# -eq 1 ] || { say "usage: replace.sh MODEL, or replace.sh --back"; exit 2; }
[ -L "$CURRENT" ] || { say "$CURRENT is no link; make it once: ln -s MODEL $CURRENT"; exit 2; }
before=$(readlink "$CURRENT")
if [ "$1" = --back ]; then
  [ -L "$CURRENT.before" ] || { say "there is no model before: $CURRENT.before is no link"; exit 2; }
  new=$(readlink "$CURRENT.before")
else
  [ -d "$1" ] || { say "$1 is no folder; give a run or a model folder"; exit 2; }
  new=$(cd "$1" && pwd)
fi

say "trying $new at port $TRIAL_PORT; the service goes on with $before"
if ! wanted=$(on_trial "$new"); then
  say "$new does not do; nothing was changed"
  exit 1
fi
say "it answers, and is put into service"
if serve_link_to "$new" "$wanted"; then
  ln -sfn "$before" "$CURRENT.before"
  say "$new is in service; replace.sh --back undoes it"
  exit 0
fi
say "the service does not answer with it; back to $before"
if serve_link_to "$before" ""; then
  say "$before is in service again"
else
  say "NEITHER IS IN SERVICE: read the service's log"
fi
exit 1
