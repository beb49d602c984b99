#!/bin/bash
# further.sh N NODES, in fresh namespaces: node N, from 2 on. Process 1 makes the link when it sees that the namespaces are there.
set -uo pipefail
node=$1 nodes=$2
bash files.sh "$node" || exit 1
touch "node$node.netns"
until ip link set eth0 up 2>/dev/null; do sleep 0.05; done
ip addr add "10.200.0.$node/24" dev eth0
ip route add default via 10.200.0.1
for n in $(seq 1 "$nodes"); do
  [ "$n" = "$node" ] || ip route add "10.244.$n.0/24" via "10.200.0.$n"
done
if [ -e ipv6 ]; then
  ip addr add "fd00:10:200::$node/64" dev eth0 nodad
  ip -6 route add default via fd00:10:200::1
  for n in $(seq 1 "$nodes"); do
    [ "$n" = "$node" ] || ip route add "fd00:10:244:$n::/64" via "fd00:10:200::$n"
  done
fi
until [ -e api.ready ]; do sleep 0.1; done
exec bash node.sh "$node"
