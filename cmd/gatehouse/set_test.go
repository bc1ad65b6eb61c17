package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRule(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       map[string]any
		err        string
	}{
		{name: "the example of the help text", text: "ingress accept tcp 443 from 0.0.0.0/0 priority 1",
			want: map[string]any{"direction": "ingress", "policy": "accept", "protocol": "tcp", "ports": "443", "source": "0.0.0.0/0", "priority": 1}},
		{name: "a group as destination, every port", text: "egress drop all to sg:db",
			want: map[string]any{"direction": "egress", "policy": "drop", "protocol": "all", "destination": "sg:db"}},
		{name: "a five-tuple rule", text: "ingress accept udp 5000 from fd00::/64 to fd00::1 source-ports 4000-4010",
			want: map[string]any{"direction": "ingress", "policy": "accept", "protocol": "udp", "ports": "5000", "source": "fd00::/64", "destination": "fd00::1", "sourcePorts": "4000-4010"}},
		{name: "everything behind description is its text", text: "ingress accept icmp from 10.0.0.0/8 description ping from inside",
			want: map[string]any{"direction": "ingress", "policy": "accept", "protocol": "icmp", "source": "10.0.0.0/8", "description": "ping from inside"}},
		{name: "too short", text: "ingress accept", err: `write direction, policy and protocol first, as in "ingress accept tcp 443 from 10.0.0.0/8"`},
		{name: "a word without its value", text: "ingress accept tcp 443 from", err: "from what?"},
		{name: "a word that is none", text: "ingress accept tcp 443 by 10.0.0.1", err: `"by" is not expected here (from, to, source-ports, priority, description)`},
		{name: "a priority that is no number", text: "ingress accept tcp 443 from 10.0.0.1 priority high", err: `priority: "high" is not a number`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseRule(c.text)
			if c.err != "" {
				if err == nil || err.Error() != c.err {
					t.Fatalf("error %v, want %s", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestParseService(t *testing.T) {
	for _, c := range []struct{ name, text, want, err string }{
		{"a TCP port", "tcp/5432", "tcp/5432", ""},
		{"a protocol without ports", "icmp", "icmp", ""},
		{"a protocol by number", "99", "99", ""},
		{"TCP needs a port", "tcp", "", `"tcp": a port is needed, as in tcp/443`},
		{"ICMP has none", "icmp/8", "", `"icmp/8": icmp has no ports`},
		{"a packet has one protocol", "all", "", `"all": a packet has one protocol: write tcp/PORT, udp/PORT, icmp …`},
		{"port zero is nobody's", "udp/0", "", `"0" is not a port (1 to 65535)`},
		{"a port beyond the last", "udp/65536", "", `"65536" is not a port (1 to 65535)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, port, err := parseService(c.text)
			switch {
			case c.err != "":
				if err == nil || err.Error() != c.err {
					t.Errorf("error %v, want %s", err, c.err)
				}
			case err != nil:
				t.Error(err)
			default:
				if got := service(p, port); got != c.want {
					t.Errorf("%s, want %s", got, c.want)
				}
			}
		})
	}
}

func TestNestPutsFlagsWhereTheManifestHasThem(t *testing.T) {
	object := map[string]any{}
	nest(object, "description", "a lab")
	nest(object, "interfaces.0.mac", "00:16:3e:00:00:01")
	nest(object, "interfaces.0.vswitch", "web")
	nest(object, "privateDns.idARecord", true)
	want := map[string]any{
		"description": "a lab",
		"interfaces":  []any{map[string]any{"mac": "00:16:3e:00:00:01", "vswitch": "web"}},
		"privateDns":  map[string]any{"idARecord": true},
	}
	if diff := cmp.Diff(want, object); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestCellFollowsPathsThroughLists(t *testing.T) {
	object := map[string]any{
		"name":       "web-1",
		"interfaces": []any{map[string]any{"privateIp": "10.0.0.1", "securityGroups": []any{"a", "b"}}, map[string]any{"privateIp": "10.0.1.1"}},
		"natGateway": true,
		"ttl":        float64(60),
	}
	for path, want := range map[string]string{
		"name": "web-1", "interfaces.privateIp": "10.0.0.1,10.0.1.1", "interfaces.securityGroups": "a,b", "interfaces.#": "2",
		"natGateway": "true", "ttl": "60", "rules.#": "0", "nothing.at.all": "",
	} {
		if got := cell(object, path); got != want {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
}
