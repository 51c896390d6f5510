#!/bin/busybox sh
# shellcheck shell=dash
# The first and only process of the virtual machines that scripts/vm.sh makes: their /init.
#
# With `agent=ttyS1` on the kernel's command line it carries out what comes on that serial line, a command a line, and says
# `~~~ EXIT-CODE` behind what each printed. Otherwise it gets an address by DHCP and leaves the rest to whoever sits there.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do
    insmod "/modules/$module"
done </modules/order
ip link set lo up
ip link set eth0 up

if [ -n "$agent" ]; then
    exec <"/dev/$agent" >"/dev/$agent" 2>&1
    stty raw -echo
    echo '~~~ ready'
    while read -r line; do
        sh -c "$line" </dev/null
        echo "~~~ $?"
    done
fi
udhcpc -n -q -t 10 -i eth0 -s /etc/udhcpc.sh
echo 'This is busybox. Try: ip addr; ping the address that the lease came from.'
exec setsid cttyhack sh
