package store

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/internal/polgen"
	"gatehouse/vpc"
)

// instances are those that a generated network has, of both families.
func instances(t testing.TB, seed uint64) []*vpc.InstanceSpec {
	t.Helper()
	var all []*vpc.InstanceSpec
	for _, v := range polgen.Spec(rand.New(rand.NewPCG(seed, 0)), polgen.Large()).VPCs {
		all = append(all, v.Instances...)
	}
	if len(all) == 0 {
		t.Fatalf("seed %d has no instance", seed)
	}
	return all
}

func mustEncode(t testing.TB, vpcID string, rank uint64, i *vpc.InstanceSpec) object {
	t.Helper()
	value, err := encodeInstance(vpcID, rank, i)
	if err != nil {
		t.Fatalf("encode %+v: %v", i, err)
	}
	return object{[]byte(i.ID), value}
}

func checkDecodes(t testing.TB, o object, p *pool, rank uint64, want *vpc.InstanceSpec) {
	t.Helper()
	got, err := decodeInstance(o, p)
	if err != nil {
		t.Fatalf("decode %x: %v", o.value, err)
	}
	if d := cmp.Diff(want, got.spec, addrs); d != "" || got.key != want.ID || got.vpc != "vpc-1" || got.rank != rank {
		t.Fatalf("%s of VPC %s, rank %d (-encoded +decoded):\n%s", got.key, got.vpc, got.rank, d)
	}
}

// addrs lets cmp compare addresses and prefixes with ==.
var addrs = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}

func TestInstancesComeBackAsTheyWere(t *testing.T) {
	p := newPool()
	var v6 int
	for seed := range uint64(50) {
		for i, want := range instances(t, seed) {
			rank := uint64(i) * rankStep
			checkDecodes(t, mustEncode(t, "vpc-1", rank, want), p, rank, want)
			for _, n := range want.Interfaces {
				v6 += len(n.IPv6Addresses)
			}
		}
	}
	if v6 == 0 {
		t.Error("nobody had an IPv6 address")
	}
}

func TestTheJSONOfSchema1IsStillRead(t *testing.T) {
	for seed := range uint64(5) {
		for i, want := range instances(t, seed) {
			value, err := json.Marshal(record[*vpc.InstanceSpec]{"vpc-1", uint64(i), want})
			if err != nil {
				t.Fatal(err)
			}
			checkDecodes(t, object{[]byte(want.ID), value}, newPool(), uint64(i), want)
		}
	}
}

// fill gives every field of v, however deep, a value of its own that is not zero.
func fill(v reflect.Value, n *int) {
	*n++
	switch x := v.Addr().Interface().(type) {
	case *netip.Addr:
		*x = netip.AddrFrom16([16]byte{0xfd, 14: byte(*n >> 8), 15: byte(*n)})
		return
	case *netip.Prefix:
		*x = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 8: byte(*n >> 8), 9: byte(*n)}), 80)
		return
	case *vpc.MAC:
		*x = vpc.MAC{2, 4: byte(*n >> 8), 5: byte(*n)}
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(string(rune('a' + *n%26)))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int:
		v.SetInt(int64(*n))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	default:
		panic("what is a " + v.Type().String())
	}
}

func TestEveryFieldOfAnInstanceIsKept(t *testing.T) {
	var n int
	full := new(vpc.InstanceSpec)
	fill(reflect.ValueOf(full).Elem(), &n)
	checkDecodes(t, mustEncode(t, "vpc-1", 7, full), newPool(), 7, full)

	empty := &vpc.InstanceSpec{ID: "i-1", Interfaces: []*vpc.InterfaceSpec{{}}}
	checkDecodes(t, mustEncode(t, "vpc-1", 0, empty), newPool(), 0, empty)
}

func TestAListThatIsEmptyStaysApartFromOneThatIsMissing(t *testing.T) {
	for name, want := range map[string]*vpc.InstanceSpec{
		"no interfaces":         {ID: "i-1"},
		"an empty list of them": {ID: "i-1", Interfaces: []*vpc.InterfaceSpec{}},
		"empty lists in one": {ID: "i-1", Metadata: vpc.MetadataSpec{SSHKeys: []string{}}, Interfaces: []*vpc.InterfaceSpec{{
			SecondaryPrivateIPs: []netip.Addr{}, IPv6Addresses: []netip.Addr{}, SecurityGroups: []string{}, IPv6AddressCount: new(int),
			IPv6Prefixes: []netip.Prefix{},
		}}},
	} {
		t.Run(name, func(t *testing.T) { checkDecodes(t, mustEncode(t, "vpc-1", 1, want), newPool(), 1, want) })
	}
}

func TestWhatCannotBeKeptOfAnInstanceIsRefused(t *testing.T) {
	negative := -1
	for name, nic := range map[string]*vpc.InterfaceSpec{
		"an address with a zone":       {IPv6Addresses: []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}},
		"a negative count":             {IPv6AddressCount: &negative},
		"an interface that is missing": nil,
	} {
		t.Run(name, func(t *testing.T) {
			if b, err := encodeInstance("vpc-1", 1, &vpc.InstanceSpec{ID: "i-1", Interfaces: []*vpc.InterfaceSpec{nic}}); err == nil {
				t.Errorf("it became %x", b)
			}
		})
	}
}

func TestWhatIsCutShortIsNoInstance(t *testing.T) {
	o := mustEncode(t, "vpc-1", 1, instance(1))
	for n := range o.value {
		if d, err := decodeInstance(object{o.key, o.value[:n]}, newPool()); err == nil {
			t.Errorf("%d bytes of %d are %+v", n, len(o.value), d.spec)
		}
	}
	if _, err := decodeInstance(object{o.key, append(o.value, 0)}, newPool()); err == nil {
		t.Error("a byte too many is not seen")
	}
}

func FuzzInstance(f *testing.F) {
	for _, i := range instances(f, 1) {
		o := mustEncode(f, "vpc-1", 1, i)
		f.Add(o.key, o.value)
	}
	f.Add([]byte("i-1"), []byte(`{"vpc":"vpc-1","rank":1,"spec":{"id":"i-1","interfaces":[{}]}}`))
	f.Add([]byte("i-1"), []byte{instanceVersion})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		d, err := decodeInstance(object{key, value}, newPool())
		if err != nil {
			return
		}
		again, err := encodeInstance(d.vpc, d.rank, d.spec)
		if err != nil {
			if value[0] != '{' {
				t.Fatal(err)
			}
			return // in JSON there may be more than can be kept
		}
		if value[0] == '{' {
			return
		}
		back, err := decodeInstance(object{key, again}, newPool())
		if err != nil || cmp.Diff(d.spec, back.spec, addrs) != "" || back.vpc != d.vpc || back.rank != d.rank {
			t.Errorf("%+v became %+v (%v)", d.spec, back.spec, err)
		}
	})
}

func FuzzUndo(f *testing.F) {
	f.Add(encodeUndo(nil))
	f.Add(encodeUndo([]objectState{{kindInst, "i-1", []byte("x")}, {kindVPC, "vpc-1", nil}, {kindZone, "z", []byte{}}}))
	f.Add([]byte(`[{"kind":"instance","key":"i-1","value":{}},{"kind":"vpc","key":"vpc-1"}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		states, err := decodeUndo(data)
		if err != nil {
			return
		}
		back, err := decodeUndo(encodeUndo(states))
		if err != nil || len(back) != len(states) {
			t.Fatalf("%d of %d, %v", len(back), len(states), err)
		}
		for i, s := range states {
			if b := back[i]; b.Kind != s.Kind || b.Key != s.Key || !bytes.Equal(b.Value, s.Value) || (b.Value == nil) != (s.Value == nil) {
				t.Errorf("%+v became %+v", s, b)
			}
		}
	})
}
