#!/bin/bash
# files.sh N, in fresh mount, network, UTS and cgroup namespaces, in the cluster's folder: what node N sees of the machine, and its settings.
# Whatever a node writes below /etc, /opt and /var goes to its own folder, so that all paths have the names that Kubernetes expects.
set -euo pipefail
node=$1
own=$PWD/node$node
hostname "node$node"
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
for controller in cpu cpuacct cpuset memory devices freezer blkio pids; do
  mkdir "/sys/fs/cgroup/$controller"
  mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller" || echo "this machine has no cgroup controller $controller"
done
mkdir /sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
mount -t tmpfs tmpfs /run
mkdir -p /run/netns /run/lock
for dir in etc opt var; do
  mkdir -p "$own/$dir/upper" "$own/$dir/work"
  # A further node finds node 1's overlay there, and the machine's own folder below it.
  [ "$node" = 1 ] || umount -R "/$dir"
  mount -t overlay overlay -o "lowerdir=/$dir,upperdir=$own/$dir/upper,workdir=$own/$dir/work" "/$dir"
done
mkdir -p /var/lib/containerd /var/lib/cni /var/lib/kubelet /etc/cni/net.d /opt/cni/bin "$own/containerd"
# The snapshots of images are overlays too, and one cannot lie on another.
mount --bind "$own/containerd" /var/lib/containerd
[ -L /var/run ] || { rm -rf /var/run && ln -s /run /var/run; }
cp "$own/cni.conflist" /etc/cni/net.d/10-kubernetes.conflist
# kubelet sets values that hold for the whole machine: it gets files of its own that have them already.
mkdir -p "$own/sysctl"
while read -r name value; do
  file=$own/sysctl/${name//\//_}
  echo "$value" >"$file"
  [ ! -e "/proc/sys/$name" ] || mount --bind "$file" "/proc/sys/$name"
done <<'SYSCTLS'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
SYSCTLS
# Volumes that one container mounts are seen by others.
mount --make-rshared /
ip link set lo up
sysctl -qw net.ipv4.ip_forward=1
# Where there is IPv6, and where bridges pass their frames through the packet filter.
sysctl -qw net.ipv6.conf.all.forwarding=1 2>/dev/null || true
sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1 2>/dev/null || true
