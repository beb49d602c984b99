#!/bin/bash
# init.sh NODES, in the cluster's folder: process 1 of the namespaces of a cluster. Its end is the end of all that runs there.
# The control plane and node 1 share its namespaces, further nodes have their own. Once all is up the caller may write `stay` to standard
# input; if that closes without it, the caller has died or wants no more of the cluster, and this ends.
set -uo pipefail
nodes=$1
controllers="cpu cpuacct cpuset memory devices freezer blkio pids systemd"

control_plane() {
  for program in etcd kube-apiserver; do sh "run/$program" & done
  until sh run/ready >/dev/null 2>&1; do sleep 0.1; done
  touch api.ready
  for program in kube-controller-manager kube-scheduler; do sh "run/$program" & done
}

# A further node, in cgroups and namespaces of its own below node 1's. What an earlier boot has left of these goes first.
further() {
  local n=$1 group
  for c in $controllers; do
    group=/sys/fs/cgroup/$c/node$n
    [ ! -d "$group" ] || find "$group" -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null
    mkdir -p "$group"
    # A group without processors and memory takes no process.
    [ "$c" != cpuset ] || { cat "$group/../cpuset.cpus" >"$group/cpuset.cpus" && cat "$group/../cpuset.mems" >"$group/cpuset.mems"; }
  done
  (
    for c in $controllers; do echo "$BASHPID" >"/sys/fs/cgroup/$c/node$n/cgroup.procs"; done
    exec unshare --net --mount --uts --ipc --cgroup --propagation private bash further.sh "$n" "$nodes"
  ) >>"logs/node$n.log" 2>&1 &
  local pid=$!
  until [ -e "node$n.netns" ]; do sleep 0.05; done
  # The other end goes with it, whoever still holds the namespace that it is in.
  ip link delete "node$n" 2>/dev/null
  ip link add "node$n" type veth peer name eth0 netns "$pid"
  ip link set "node$n" master node0 up
  # Whoever finds this may enter it.
  echo "$pid" >"node$n.pid"
}

rm -f api.ready ./node*.pid ./node*.netns ./node*.boot
bash files.sh 1 || exit 1
ip link add node0 type bridge
ip addr add 10.200.0.1/24 dev node0
ip link set node0 up
# Addresses of Services are reached by way of a route, whichever it is.
ip route add default dev node0
for n in $(seq 2 "$nodes"); do ip route add "10.244.$n.0/24" via "10.200.0.$n"; done
# The same of IPv6, if that is asked for.
if [ -e ipv6 ]; then
  ip addr add fd00:10:200::1/64 dev node0 nodad
  ip -6 route add default dev node0
  for n in $(seq 2 "$nodes"); do ip route add "fd00:10:244:$n::/64" via "fd00:10:200::$n"; done
fi
(
  control_plane &
  for n in $(seq 2 "$nodes"); do further "$n"; done
  until [ -e api.ready ]; do sleep 0.1; done
  bash node.sh 1 &
  # A further node whose processes somebody has killed starts again if that is asked for.
  while wait -n || [ $? != 127 ]; do
    for n in $(seq 2 "$nodes"); do
      [ ! -e "node$n.boot" ] || { rm "node$n.boot" && further "$n"; }
    done
  done
) </dev/null &
read -r word || exit 0
[ "$word" = stay ] || exit 0
trap 'exit 0' TERM
while :; do sleep 3600 </dev/null & wait $!; done
