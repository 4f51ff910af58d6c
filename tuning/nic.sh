#!/usr/bin/env bash
# nic.sh INTERFACE CPUS [--apply]: brings a network card's queues to the cores CPUS (a list like
# 0-3,8). Without --apply it only prints what it would do. Nothing of it survives a restart of the
# machine: call it from a unit or from the interface's configuration.
#
# Which cores: a shard that keeps a core busy should not be interrupted for other shards' packets.
# Shards are on the last cores: with cores to spare name the first ones (of 32 cores with 28 shards
# 0-3); else name all of them.
set -euo pipefail

usage() {
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
}

[ $# -ge 2 ] && [ $# -le 3 ] || usage
interface=$1
apply=no
if [ $# -eq 3 ]; then
    [ "$3" = --apply ] || usage
    apply=yes
fi
queues=/sys/class/net/$interface/queues
[ -d "$queues" ] || { echo "nic.sh: there is no interface $interface" >&2; exit 1; }

cpus=()
IFS=, read -ra parts <<< "$2"
for part in "${parts[@]}"; do
    [[ $part =~ ^([0-9]+)(-([0-9]+))?$ ]] || usage
    for (( cpu = BASH_REMATCH[1]; cpu <= ${BASH_REMATCH[3]:-${BASH_REMATCH[1]}}; cpu++ )); do
        [ -d "/sys/devices/system/cpu/cpu$cpu" ] || { echo "nic.sh: there is no core $cpu" >&2; exit 1; }
        cpus+=("$cpu")
    done
done
[ "${#cpus[@]}" -gt 0 ] || usage

failed=0
# Prints a step; does it with --apply. One that the card or the driver refuses is told, and the
# others are still done.
step() {
    echo "$*"
    [ "$apply" = no ] && return
    "$@" || { echo "nic.sh: refused: $*" >&2; failed=1; }
}
# The same for a value in /sys or /proc.
put() {
    echo "echo $1 > $2"
    [ "$apply" = no ] && return
    { echo "$1" > "$2"; } 2> /dev/null || { echo "nic.sh: refused: $2" >&2; failed=1; }
}
# The mask of one core, in the groups of 32 bits that the kernel reads.
mask() {
    local cpu=$1 groups=
    while [ "$cpu" -ge 32 ]; do
        groups+=,00000000
        cpu=$(( cpu - 32 ))
    done
    printf '%x%s' $(( 1 << cpu )) "$groups"
}

# irqbalance would move the interrupts away again.
if command -v systemctl > /dev/null && systemctl is-active --quiet irqbalance 2> /dev/null; then
    step systemctl stop irqbalance
fi

if command -v ethtool > /dev/null; then
    # One queue for each of the cores: more only share them.
    most=$(ethtool -l "$interface" 2> /dev/null | awk '/^Combined:/ { print $2; exit }' || true)
    if [[ ${most:-} =~ ^[0-9]+$ ]] && [ "$most" -gt 1 ]; then
        step ethtool -L "$interface" combined $(( most < ${#cpus[@]} ? most : ${#cpus[@]} ))
    fi
    # Fewer interrupts under load, none held back when there is little: the driver adapts.
    if ethtool -c "$interface" 2> /dev/null | grep -q '^Adaptive RX: off'; then
        step ethtool -C "$interface" adaptive-rx on
    fi
else
    echo '# ethtool is missing (apt-get install -y ethtool): queues and coalescing stay as they are'
fi

# Each interrupt of the card on one of the cores, in turn. A virtual card's are its parent's.
index=0
device=/sys/class/net/$interface/device
interrupts=$(ls "$device/msi_irqs" 2> /dev/null || ls "$(readlink -f "$device")/../msi_irqs" 2> /dev/null || true)
for interrupt in $(sort -n <<< "$interrupts"); do
    put "${cpus[index % ${#cpus[@]}]}" "/proc/irq/$interrupt/smp_affinity_list"
    index=$(( index + 1 ))
done
[ "$index" -gt 0 ] || echo "# $interface has no interrupts of its own: it is not a card"

# A card with one queue interrupts one core: the kernel spreads the work behind it (RPS) over all of
# the cores. With a queue for each core that would only add a hop.
receive=("$queues"/rx-*)
if [ "${#receive[@]}" -eq 1 ] && [ "${#cpus[@]}" -gt 1 ]; then
    groups=()
    for cpu in "${cpus[@]}"; do
        group=$(( cpu / 32 ))
        groups[group]=$(( ${groups[group]:-0} | 1 << cpu % 32 ))
    done
    all=
    for (( group = cpus[-1] / 32; group >= 0; group-- )); do
        all+=$(printf '%s%x' "${all:+,}" "${groups[group]:-0}")
    done
    put "$all" "${receive[0]}/rps_cpus"
fi

# Each send queue belongs to one core (XPS), so that its lock is not shared.
send=("$queues"/tx-*)
if [ "${#send[@]}" -gt 1 ]; then
    for index in "${!send[@]}"; do
        put "$(mask "${cpus[index % ${#cpus[@]}]}")" "${send[index]}/xps_cpus"
    done
fi
exit "$failed"
