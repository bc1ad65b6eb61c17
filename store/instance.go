package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"

	bolt "go.etcd.io/bbolt"

	"gatehouse/vpc"
)

// An instance is stored under its ID, as
//
//	version 1 | rank | VPC | flags | name | description | host name type | user data | SSH keys | interfaces
//
// and each of its interfaces as
//
//	MAC (6) | ID | vSwitch | private address | secondary addresses | IPv6 addresses | count of those | groups | port
//
// and, in version 2, which only instances with prefixes have, the prefixes, each as its address and its length in a byte,
// with the strings, lists and addresses of binary.go. Until schema 2 it was a record in JSON, which begins with a brace
// and is still read: the history of older revisions has it.

const (
	instanceVersion = 1
	prefixesVersion = 2 // an instance with prefixes
)

// The flags of an instance.
const (
	flagEnrolled = 1 << iota
	flagIDA
	flagIDAAAA
	flagIPA
	flagIPPtr
	allFlags = 1<<iota - 1
)

// errZone refuses an address that means something on one link of one host only.
var errZone = errors.New("an address with a zone cannot be kept")

func encodeInstance(vpcID string, rank uint64, i *vpc.InstanceSpec) ([]byte, error) {
	var flags byte
	for flag, set := range map[byte]bool{
		flagEnrolled: i.Enrolled, flagIDA: i.PrivateDNS.IDARecord, flagIDAAAA: i.PrivateDNS.IDAAAARecord,
		flagIPA: i.PrivateDNS.IPARecord, flagIPPtr: i.PrivateDNS.IPPtrRecord,
	} {
		if set {
			flags |= flag
		}
	}
	version := byte(instanceVersion)
	if slices.ContainsFunc(i.Interfaces, func(n *vpc.InterfaceSpec) bool { return n != nil && n.IPv6Prefixes != nil }) {
		version = prefixesVersion
	}
	b := binary.AppendUvarint([]byte{version}, rank)
	b = append(appendString(b, vpcID), flags)
	for _, s := range []string{i.Name, i.Description, string(i.PrivateDNS.HostnameType), i.Metadata.UserData} {
		b = appendString(b, s)
	}
	b = appendStrings(b, i.Metadata.SSHKeys)
	b = appendLen(b, len(i.Interfaces), i.Interfaces == nil)
	for _, n := range i.Interfaces {
		if n == nil {
			return nil, errors.New("an interface is missing")
		}
		for a := range n.Addrs {
			if a.Zone() != "" {
				return nil, errZone
			}
		}
		b = append(b, n.MAC[:]...)
		b = appendString(appendString(b, n.ID), n.VSwitch)
		b = appendAddr(b, n.PrivateIP)
		for _, list := range [][]netip.Addr{n.SecondaryPrivateIPs, n.IPv6Addresses} {
			b = appendLen(b, len(list), list == nil)
			for _, a := range list {
				b = appendAddr(b, a)
			}
		}
		count := 0
		if n.IPv6AddressCount != nil {
			if count = *n.IPv6AddressCount; count < 0 || count > math.MaxInt32 {
				return nil, fmt.Errorf("there cannot be %d addresses", count)
			}
		}
		b = appendLen(b, count, n.IPv6AddressCount == nil)
		b = appendString(appendStrings(b, n.SecurityGroups), n.Port)
		if version < prefixesVersion {
			continue
		}
		b = appendLen(b, len(n.IPv6Prefixes), n.IPv6Prefixes == nil)
		for _, p := range n.IPv6Prefixes {
			b = append(appendAddr(b, p.Addr()), byte(p.Bits()))
		}
	}
	return b, nil
}

// storedRank returns the rank of what is stored as an instance is, 0 of anything else.
func storedRank(value []byte) uint64 {
	if len(value) == 0 || value[0] != instanceVersion && value[0] != prefixesVersion {
		return 0
	}
	r := reader{rest: value[1:]}
	return r.uint()
}

var errShort = errors.New("cut short")

// decodeInstance reads an instance in any of its forms.
func decodeInstance(o object, p *pool) (decoded[vpc.InstanceSpec], error) {
	if len(o.value) > 0 && o.value[0] == '{' {
		return decodeRecord[vpc.InstanceSpec](o, p)
	}
	var d decoded[vpc.InstanceSpec]
	if len(o.value) == 0 {
		return d, errShort
	}
	v := o.value[0]
	if v != instanceVersion && v != prefixesVersion {
		return d, fmt.Errorf("version %d is not known", v)
	}
	r := reader{rest: o.value[1:], pool: p}
	d.key, d.rank, d.vpc = p.string(o.key), r.uint(), r.name()
	flags := r.byte()
	if flags > allFlags {
		return d, fmt.Errorf("flags %#x are not known", flags)
	}
	in := p.room()
	d.spec = &in.instance
	*d.spec = vpc.InstanceSpec{
		ID: d.key, Name: r.string(), Description: r.string(), Enrolled: flags&flagEnrolled != 0,
		PrivateDNS: vpc.PrivateDNSSpec{
			HostnameType: vpc.HostnameType(r.name()), IDARecord: flags&flagIDA != 0, IDAAAARecord: flags&flagIDAAAA != 0,
			IPARecord: flags&flagIPA != 0, IPPtrRecord: flags&flagIPPtr != 0,
		},
		Metadata: vpc.MetadataSpec{UserData: r.string(), SSHKeys: r.strings()},
	}
	if n, ok := r.len(); ok {
		d.spec.Interfaces = in.nics[:0:1]
		for range n {
			nic := &in.nic
			if len(d.spec.Interfaces) > 0 {
				nic = new(vpc.InterfaceSpec)
			}
			if r.nic(nic); v >= prefixesVersion {
				nic.IPv6Prefixes = r.prefixes()
			}
			if r.bad {
				break
			}
			d.spec.Interfaces = append(d.spec.Interfaces, nic)
		}
	}
	if r.bad || len(r.rest) != 0 {
		return decoded[vpc.InstanceSpec]{}, errShort
	}
	return d, nil
}

func (r *reader) nic(n *vpc.InterfaceSpec) {
	copy(n.MAC[:], r.take(uint64(len(n.MAC))))
	n.ID, n.VSwitch, n.PrivateIP = r.string(), r.name(), r.addr()
	n.SecondaryPrivateIPs, n.IPv6Addresses = r.addrs(), r.addrs()
	switch count := r.uint(); {
	case count > math.MaxInt32+1:
		r.fail()
	case count > 0:
		n.IPv6AddressCount = new(int)
		*n.IPv6AddressCount = int(count - 1)
	}
	n.SecurityGroups, n.Port = r.names(), r.name()
}

// instancesFromJSON brings instances into the form of schema 2.
func instancesFromJSON(tx *bolt.Tx) error {
	b := tx.Bucket([]byte(kindInst))
	var all []object
	err := b.ForEach(func(k, v []byte) error {
		all = append(all, object{bytes.Clone(k), bytes.Clone(v)}) // the map of the file may move
		return nil
	})
	if err != nil {
		return err
	}
	p := newPool()
	for _, o := range all {
		d, err := decodeInstance(o, p)
		if err != nil {
			return fmt.Errorf("decode instance %s: %w", o.key, err)
		}
		value, err := encodeInstance(d.vpc, d.rank, d.spec)
		if err != nil {
			return fmt.Errorf("encode instance %s: %w", o.key, err)
		}
		if err := b.Put(o.key, value); err != nil {
			return fmt.Errorf("write instance %s: %w", o.key, err)
		}
	}
	return nil
}
