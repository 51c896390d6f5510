#!/bin/sh
# A node's bridge and its VXLAN: node-up.sh ADDRESS, that of the node among the nodes. Before etherws and FRR start.
# nolearning: which node a station is behind is BGP's to say. No addresses: the host itself is not in the segment.
set -e
ip link add br0 type bridge
ip link add vxlan77 type vxlan id 77 local "$1" dstport 4789 nolearning
ip link set br0 addrgenmode none
ip link set vxlan77 master br0 addrgenmode none
bridge link set dev vxlan77 learning off
ip link set br0 up
ip link set vxlan77 up
