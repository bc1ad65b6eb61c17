package firewall

import (
	"net/netip"
	"reflect"
	"testing"

	"gatehouse/vpc"
)

// other sets a value to one that is not its zero value.
func other(t *testing.T, v reflect.Value) {
	t.Helper()
	switch x := v.Addr().Interface().(type) {
	case *netip.Prefix:
		*x = netip.MustParsePrefix("192.0.2.0/24")
	case *vpc.MAC:
		x[0] = 2
	case *vpc.Ports:
		*x = vpc.Ports{{From: 1, To: 2}}
	case *[]SetMatch:
		*x = []SetMatch{{Set: "gh4-a", Dir: "src"}}
	case *[]vpc.ConnState:
		*x = []vpc.ConnState{vpc.StateEstablished}
	case **Mark:
		*x = &Mark{1, 1}
	case *Mark:
		*x = Mark{1, 1}
	default:
		switch v.Kind() {
		case reflect.String:
			v.SetString("x")
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Int:
			v.SetInt(1)
		case reflect.Uint8:
			v.SetUint(1)
		default:
			t.Fatalf("a field of type %s, which equal may not know", v.Type())
		}
	}
}

// A rule that differs in any one field is another rule.
func TestRulesDifferInEveryField(t *testing.T) {
	for _, of := range []func(*Rule) any{
		func(r *Rule) any { return &r.Match },
		func(r *Rule) any { return &r.Target },
		func(r *Rule) any { return r },
	} {
		typ := reflect.TypeOf(of(&Rule{})).Elem()
		for i := range typ.NumField() {
			if f := typ.Field(i).Type; f == reflect.TypeFor[Match]() || f == reflect.TypeFor[Target]() {
				continue
			}
			var a, b, c Rule
			other(t, reflect.ValueOf(of(&a)).Elem().Field(i))
			other(t, reflect.ValueOf(of(&c)).Elem().Field(i))
			if a.equal(&b) || b.equal(&a) {
				t.Errorf("rules that differ in %s of %s are equal", typ.Field(i).Name, typ)
			}
			if !a.equal(&c) {
				t.Errorf("rules with the same %s of %s differ", typ.Field(i).Name, typ)
			}
		}
	}
}
