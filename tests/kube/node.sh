#!/bin/bash
# node.sh N, after files.sh in the same namespaces: the programs of node N, until they are killed.
# The files run/NAME are their command lines, written by whoever starts the cluster.
set -uo pipefail
node=$1
cp -s /usr/lib/cni/* /opt/cni/bin/ 2>/dev/null
sh "run/containerd$node" &
for _ in $(seq 600); do ctr version >/dev/null 2>&1 && break || sleep 0.1; done
sh run/images >"logs/images$node.log" 2>&1
sh "run/kubelet$node" &
sh "run/kube-proxy$node" &
wait
