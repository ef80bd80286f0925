#!/usr/bin/env bash
# Runs Envoy in a container, says whether it is ready, and lets it finish what it has in hand before it stops.
#
#   run-in-container.sh serve ENVOY-ARGUMENTS...   until SIGTERM
#   run-in-container.sh ready                      exits with 0 when requests are taken
#
# Envoy by itself drops its connections on SIGTERM: a sender could not know whether its message was accepted. Its
# administration listens within the container only, and bash can speak to it without any other program.
set -u

ADMIN_PORT=9901
# Envoy closes its listeners after this; until then it answers, and asks each sender to close its connection.
DRAIN_SECONDS=5
# No request takes longer.
LAST_ANSWER_SECONDS=10
FIGURES='^(listener_manager\.listener_stopped|http\.public\.downstream_(cx_active|rq_active|rq_total))$'
# Rounds of 0.1 s. Whoever has connected has sent its request by then.
QUIET_ROUNDS=10

administer() { # METHOD PATH: prints the answer, its headers first
  local line
  exec 3<>"/dev/tcp/127.0.0.1/$ADMIN_PORT" || return 1
  printf '%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' "$1" "$2" >&3
  while IFS= read -r -t 2 line <&3 || [ -n "$line" ]; do printf '%s\n' "${line%$'\r'}"; done
  exec 3>&-
}

# Over when it listens no more, and nobody is connected or those who are have sent nothing for a while.
stop() {
  trap '' TERM INT
  administer POST '/drain_listeners?graceful' >/dev/null
  sleep "$DRAIN_SECONDS"
  local figures begun before='' quiet=0 left=$((LAST_ANSWER_SECONDS * 10))
  while [ "$left" -gt 0 ]; do
    figures=$(administer GET "/stats?filter=$FIGURES") || break
    begun=$(figure http.public.downstream_rq_total)
    if [ "$(figure listener_manager.listener_stopped)" = 0 ] || [ "$(figure http.public.downstream_rq_active)" != 0 ] ||
      [ "$begun" != "$before" ]; then
      before=$begun quiet=0
    elif [ "$(figure http.public.downstream_cx_active)" = 0 ] || [ "$quiet" -ge "$QUIET_ROUNDS" ]; then
      break
    fi
    sleep 0.1
    quiet=$((quiet + 1)) left=$((left - 1))
  done
  kill -TERM "$envoy" 2>/dev/null
}

figure() { # NAME: prints it, of those in `figures`
  sed -n "s/^$1: //p" <<<"$figures"
}

case "${1:-}" in
  serve)
    shift
    envoy "$@" --drain-time-s "$DRAIN_SECONDS" --drain-strategy immediate --disable-hot-restart &
    envoy=$!
    trap stop TERM INT
    # A trapped signal ends the wait before Envoy has ended.
    while kill -0 "$envoy" 2>/dev/null; do
      wait "$envoy"
      status=$?
    done
    exit "$status"
    ;;
  ready) administer GET /ready 2>/dev/null | grep -q '^LIVE$' ;;
  *) echo "usage: run-in-container.sh serve|ready" >&2; exit 2 ;;
esac
