#!/bin/bash
#SBATCH --job-name=cryoflow-server
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=7-00:00:00
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
# `cryoflow up` as a job, without root: a private PostgreSQL, Prefect's server, the workers and the pages in one small job.
#
#   sbatch --output=$HOME/cryoflow-server.log server-job.sh FOLDER      FOLDER: on all nodes, of this account alone
#   . FOLDER/environment                                                then: cryoflow deploy, cryoflow run, cryoflow trace
#
# FOLDER keeps the database and the secret, so a job that ended is submitted again and goes on: stages are jobs of their
# own and outlive it. It needs CRYOFLOW_CONFIG (or ~/.config/cryoflow), PostgreSQL's programs, and cryoflow on PATH.
set -euo pipefail
[ $# = 1 ] || { sed -n '9,15p' "$0"; exit 2; }
umask 077
mkdir -p "$1"
folder=$(realpath "$1")
exec 9>"$folder/lock"
flock --timeout 60 9 || { echo "server-job.sh: another job serves $folder" >&2; exit 1; }
programs=${POSTGRESQL_PROGRAMS:-$(pg_config --bindir 2>/dev/null || ls -d /usr/lib/postgresql/*/bin | tail -1)}
port=${CRYOFLOW_PORT:-$((20000 + $(id -u) % 20000))}
host=${CRYOFLOW_HOST:-$(hostname -i | cut -d' ' -f1)}
profile=${CRYOFLOW_PROFILE:-slurm}
[ -s "$folder/secret" ] || head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$folder/secret"
secret=cryoflow:$(cat "$folder/secret")

postgres() { "$@"; }
if [ "$(id -u)" = 0 ]; then  # PostgreSQL refuses to run as root
    postgres() { runuser -u postgres -- "$@"; }
    chmod 711 "$folder"
    install -d -o postgres -m 700 "$folder/database"
fi
data=$folder/database/data
[ -s "$data/PG_VERSION" ] || postgres "$programs/initdb" --pgdata "$data" --username cryoflow --auth trust >/dev/null
# It listens on a socket in a folder of this node that only this account may enter. It is a child of this script, so that
# it ends with the job. PostgreSQL finds a stale lock of this node itself; that of another node names no process of this one.
sockets=$(mktemp -d)
[ "$(id -u)" != 0 ] || chown postgres "$sockets"
[ "$(cat "$folder/host" 2>/dev/null)" = "$(hostname)" ] || rm -f "$data/postmaster.pid"
hostname > "$folder/host"
trap 'postgres "$programs/pg_ctl" --pgdata "$data" --mode fast stop >/dev/null || true; rm -rf "$sockets"' EXIT
for attempt in $(seq 30); do  # processes of a killed job hold its shared memory for a moment
    postgres "$programs/postgres" -D "$data" -c listen_addresses= -k "$sockets" -c max_connections=300 >> "$folder/postgres.log" 2>&1 9>&- &
    database=$!
    until "$programs/pg_isready" --quiet --host "$sockets"; do
        kill -0 $database 2>/dev/null || break
        sleep 0.5
    done
    ! kill -0 $database 2>/dev/null || break
    [ "$attempt" -lt 30 ] || { echo "server-job.sh: PostgreSQL does not start: see $folder/postgres.log" >&2; exit 1; }
    sleep 2
done

export PREFECT_SERVER_API_AUTH_STRING=$secret PREFECT_API_AUTH_STRING=$secret
address=http://$host:$port
site="{\"server\": \"$address\"}"
cat > "$folder/environment.part" <<ENVIRONMENT
export CRYOFLOW_SITE='$site' CRYOFLOW_PROFILE=$profile
export PREFECT_API_URL=$address/api PREFECT_API_AUTH_STRING=$secret
ENVIRONMENT
mv "$folder/environment.part" "$folder/environment"
export CRYOFLOW_SITE="{\"server\": \"$address\", \"server_database\": \"postgresql+asyncpg://cryoflow@/postgres?host=$sockets\"}"
# Jobs that the workers submit must not inherit this job's own options.
for name in $(compgen -e | grep -E '^(SLURM|SBATCH)_' | grep -v '^SLURM_CONF$'); do unset "$name"; done
cryoflow up --profile "$profile" --host "$host" --logs "$folder/logs" 9>&- &
up=$!
trap 'kill -TERM $up' TERM
wait $up || wait $up
