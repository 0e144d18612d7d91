#!/usr/bin/env bash
# Converts the same faces in process and on an engine, and compares the digests of the two datasets.
#
#     scripts/test_engine.sh flink|spark|prism
#
#   flink  a local Flink with two workers, in the job server of the installed Beam version (Java 17, Maven)
#   spark  the same on a local Spark 3
#   prism  Beam's own engine, compiled by Go, with the workers in processes of their own
#
#   COUNT=4000        faces to draw
#   JOB_SERVER_JAR=   a job server that is here already; Maven is not asked then
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

engine=${1:-}
count=${COUNT:-4000}
# Beam starts its workers as `python`, whichever the PATH has.
PATH="$PWD/.venv/bin:$PATH"
cache=$PWD/.cache/engines
beam=$(python -c 'import importlib.metadata as metadata; print(metadata.version("apache-beam"))')

fail() {
  echo "test_engine.sh: $*" >&2
  exit 4
}

need_java() {
  java=${JAVA_HOME:+$JAVA_HOME/bin/}java
  command -v "$java" >/dev/null || fail "no java; install a Java 17 runtime (Debian: openjdk-17-jre-headless) or set JAVA_HOME"
  major=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
  [[ $major == 11 || $major == 17 ]] || fail "$java is version ${major:-unknown}; Flink 1.20 and Spark 3 run on 11 and 17: set JAVA_HOME"
}

# Sets `jar` to the job server org.apache.beam:$1 of the installed Beam version.
fetch_job_server() {
  jar=${JOB_SERVER_JAR:-$cache/$1-$beam.jar}
  [[ -e $jar ]] && return
  [[ -z ${JOB_SERVER_JAR:-} ]] || fail "JOB_SERVER_JAR=$jar is not there"
  command -v mvn >/dev/null || fail "no mvn; install Maven, or fetch org.apache.beam:$1:$beam yourself and set JOB_SERVER_JAR"
  echo "Fetching org.apache.beam:$1:$beam with Maven"
  # -U: Maven remembers for a day that something was not there.
  mvn --batch-mode --quiet -U org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy \
    -Dartifact="org.apache.beam:$1:$beam" -DoutputDirectory="$cache" >"$cache/maven.log" 2>&1 ||
    fail "Maven has no org.apache.beam:$1:$beam (see $cache/maven.log);" \
      "set JOB_SERVER_JAR to one that you have"
}

fetch_prism() {
  prism=$cache/prism-$beam
  [[ -x $prism ]] && return
  command -v go >/dev/null || fail "no go; install Go (https://go.dev/dl)"
  echo "Compiling prism $beam"
  GOBIN=$cache go install "github.com/apache/beam/sdks/v2/go/cmd/prism@v$beam"
  mv "$cache/prism" "$prism"
}

mkdir -p "$cache"
case $engine in
  flink)
    need_java
    fetch_job_server beam-runners-flink-1.20-job-server
    options="--runner=FlinkRunner --flink_master=[local] --flink_version=1.20 --flink_job_server_jar=$jar"
    options+=" --parallelism=2 --environment_type=LOOPBACK"
    ;;
  spark)
    need_java
    fetch_job_server beam-runners-spark-3-job-server
    options="--runner=SparkRunner --spark_master_url=local[2] --spark_job_server_jar=$jar --environment_type=LOOPBACK"
    ;;
  prism)
    fetch_prism
    options="--runner=PrismRunner --prism_location=$prism --environment_type=LOOPBACK"
    options+=" --experiments=use_loopback_process_worker"
    ;;
  *)
    sed -n '2,12s/^# \{0,1\}//p' "$0"
    exit 1
    ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

convert() {
  local name=$1
  shift
  SECONDS=0
  python -m pipeline.build_tfrecords --source=affectnet --input_dir="$work/faces" --data_dir="$work/$name" --name=engine "$@"
  digest=$(sha256sum <"$work/$name/affect_faces/engine/1.0.0/manifest.json" | cut -d ' ' -f 1)
  echo "$name: $digest in $SECONDS s"
}

python -m datasets.sample_faces --output_dir="$work/faces" --count="$count"
convert local
expected=$digest
convert "$engine" --beam_options="$options"
python -m pipeline.verify --dataset_dir="$work/$engine/affect_faces/engine/1.0.0"
[[ $digest == "$expected" ]] || { echo "The datasets differ: local $expected, $engine $digest" >&2; exit 5; }
echo "$count faces: the $engine dataset equals the local one, byte for byte"
