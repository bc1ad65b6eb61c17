package vpc

import (
	"slices"
	"strings"
	"testing"
)

func TestAntiSpoof(t *testing.T) {
	runPolicyTests(t, Families(), []policyTest{
		{"an instance may send from its primary address", "", "web-1 > internet tcp/443", "pass anti-spoof spoof.ok"},
		{"an instance may send from a secondary address", "", "web-1.2nd > internet tcp/443", "pass anti-spoof spoof.ok"},
		{"nobody sends from a neighbour's address", "", "web-2 > internet tcp/443 mac=web-1", "drop anti-spoof spoof.address"},
		{"nobody sends from an address that no interface has", "", "free.web > internet tcp/443 via=web mac=web-1", "drop anti-spoof spoof.address"},
		{"nobody sends from an address of another vSwitch", "", "web-1 > internet tcp/443 via=db mac=web-1", "drop anti-spoof spoof.address"},
		{"nobody sends from an outside address", "", "internet > db-1 tcp/443 via=web mac=web-1", "drop anti-spoof spoof.address"},
		{"nobody sends from the gateway's address", "", "gw.web > db-1 tcp/443 via=web mac=web-1", "drop anti-spoof spoof.address"},
		{"nobody sends from a multicast address", "", "multicast > db-1 tcp/443 via=web mac=web-1", "drop anti-spoof spoof.source"},
		{"nobody sends from a loopback address", "", "loopback > db-1 tcp/443 via=web mac=web-1", "drop anti-spoof spoof.source"},
		{"the uplink does not forge an instance", "", "web-1 > db-1 tcp/443 via=uplink", "drop anti-spoof spoof.outside"},
		{"the uplink does not forge a free address of a VPC", "", "free.lab > db-1 tcp/443 via=uplink", "drop anti-spoof spoof.outside"},
		{"a foreign link does not forge an instance", "", "web-1 > internet tcp/443 via=foreign", "drop anti-spoof spoof.outside"},
		{"multicast sources from an uplink are not forwarded", "", "multicast > db-1 tcp/443 via=uplink", "drop anti-spoof spoof.source"},
		{"unspecified sources from an uplink are not forwarded", "", "nobody > db-1 tcp/443 via=uplink", "drop anti-spoof spoof.unspecified"},
		{"a packet for one is not sent to many", "", "web-1 > db-1 tcp/443 group", "drop anti-spoof spoof.frame"},
		{"a packet for the gateway is not sent to many", "", "web-1 > gw.web udp/53 group", "drop anti-spoof spoof.frame"},
		{"a packet for one outside is not sent to many", "", "web-1 > internet tcp/443 group", "drop anti-spoof spoof.frame"},
		{"the uplink does not send to many what is for one of ours", "", "internet > web-1 tcp/443 group", "drop anti-spoof spoof.frame"},
		{"what is for many is sent to many", "", "web-1 > multicast udp/5353 group", "drop host-access host.closed"},
		{"without an address nothing is forwarded", "", "nobody > internet tcp/443 via=web mac=web-1", "drop anti-spoof spoof.unspecified"},
		{"without an address the gateway's DNS is out of reach", "", "nobody > gw.web udp/53 via=web mac=web-1", "drop anti-spoof spoof.unspecified"},
	})
	runPolicyTests(t, []Family{IPv4}, []policyTest{
		{"DHCP begins without an address", "", "nobody > everybody udp/67 sport=68 via=web mac=web-1", "accept host-access host.service"},
		{"DHCP without an address goes to the gateway only", "", "nobody > db-1 udp/67 sport=68 via=web mac=web-1", "drop anti-spoof spoof.unspecified"},
		{"an instance does not answer as a DHCP server", "", "web-1 > web-2 udp/68 sport=67", "drop anti-spoof spoof.rogue-dhcp"},
		{"an instance does not offer before it has an address", "", "nobody > everybody udp/68 sport=67 via=web mac=web-1", "drop anti-spoof spoof.rogue-dhcp"},
		{"the broadcast address is no source", "", "everybody > db-1 tcp/443 via=web mac=web-1", "drop anti-spoof spoof.source"},
	})
	runPolicyTests(t, []Family{IPv6}, []policyTest{
		{"duplicate address detection has no source", "", "nobody > solicited type/135 via=web mac=web-1", "accept host-access host.service"},
		{"a router is solicited without a source", "", "nobody > all-routers type/133 via=web mac=web-1", "accept host-access host.service"},
		{"a multicast listener reports without a source", "", "nobody > multicast type/143 via=web mac=web-1", "drop anti-spoof spoof.unspecified"},
		{"a multicast listener reports on its link without a source", "", "nobody > all-routers type/143 via=web mac=web-1", "accept host-access host.service"},
		{"an advertisement without a source is refused", "", "nobody > everybody type/136 via=web mac=web-1", "drop anti-spoof spoof.unspecified"},
		{"an instance advertises no router", "", "linklocal > everybody type/134 via=web mac=web-1", "drop anti-spoof spoof.rogue-ra"},
		{"an instance with an address advertises no router", "", "web-1 > everybody type/134", "drop anti-spoof spoof.rogue-ra"},
		{"an instance does not answer as a DHCP server", "", "linklocal > linklocal.2nd udp/546 sport=547 via=web mac=web-1", "drop anti-spoof spoof.rogue-dhcp"},
		{"DHCP begins from a link-local address", "", "linklocal > dhcp udp/547 sport=546 via=web mac=web-1", "accept host-access host.service"},
		{"a link-local source reaches its router", "", "linklocal > router type/135 via=web mac=web-1", "accept host-access host.service"},
		{"a link-local source reaches its link's gateway address", "", "linklocal > gw.web udp/53 via=web mac=web-1", "accept host-access host.service"},
		{"a link-local source does not reach another link's gateway address", "", "linklocal > gw.db udp/53 via=web mac=web-1", "drop anti-spoof spoof.link-local"},
		{"a link-local source reaches no instance", "", "linklocal > web-2 tcp/443 via=web mac=web-1", "drop anti-spoof spoof.link-local"},
		{"a link-local source reaches no multicast beyond its link", "", "linklocal > multicast dhcp via=web mac=web-1", "drop anti-spoof spoof.link-local"},
		{"a link-local source reaches nothing outside", "", "linklocal > internet tcp/443 via=web mac=web-1", "drop anti-spoof spoof.link-local"},
		{"link-local packets from an uplink are not forwarded", "", "linklocal > db-1 tcp/443 via=uplink", "drop anti-spoof spoof.link-local"},
		{"link-local neighbours do not talk across the gateway", "", "linklocal > linklocal.2nd tcp/443 via=web mac=web-1", "drop vpc vpc.no-route"},
	})
}

// What is behind an instance, in a prefix delegated to it, is the instance's.
func TestDelegatedPrefixes(t *testing.T) {
	const has = "web-1 has fd00:20:0:1:5::/80\n db-1 has fd00:20:0:2:5::/80\n"
	const rules = has + `
		group app basic drop
		group db basic drop
		web-1 in app
		db-1 in db
		db: ingress accept tcp 5432 sg:app
		db: ingress accept tcp 80 {any} of fd00:20:0:2:5::/80`
	runPolicyTests(t, []Family{IPv6}, []policyTest{
		{"an instance sends from its prefix", has, "behind.web-1 > internet tcp/443", "pass anti-spoof spoof.ok"},
		{"nobody sends from beside the prefix", has, "beside.web-1 > internet tcp/443 via=web mac=web-1", "drop anti-spoof spoof.address"},
		{"nobody sends from a neighbour's prefix", has, "behind.web-1 > internet tcp/443 mac=web-2", "drop anti-spoof spoof.address"},
		{"nobody sends from a prefix on another vSwitch", has, "behind.web-1 > internet tcp/443 via=db mac=web-1", "drop anti-spoof spoof.address"},
		{"the uplink does not forge what is in a prefix", has, "behind.web-1 > db-1 tcp/443 via=uplink", "drop anti-spoof spoof.outside"},
		{"without the prefix nobody sends from it", "", "behind.web-1 > internet tcp/443 via=web mac=web-1", "drop anti-spoof spoof.address"},
		{"a group is also what its members have behind them", rules, "behind.web-1 > db-1 tcp/5432", "accept sg-ingress sg.rule r1"},
		{"the groups of the instance judge what goes behind it", rules, "behind.web-1 > behind.db-1 tcp/5432", "accept sg-ingress sg.rule r1"},
		{"another instance is not in the group", rules, "web-2 > behind.db-1 tcp/5432", "drop sg-ingress sg.default.basic.ingress"},
		{"a rule for the prefix alone", rules, "internet > behind.db-1 tcp/80", "accept sg-ingress sg.rule r2"},
		{"a rule for the prefix alone is not about the instance", rules, "internet > db-1 tcp/80", "drop sg-ingress sg.default.basic.ingress"},
		{"what nobody has behind him is nobody's", rules, "internet > beside.web-1 tcp/80", "drop sg-ingress unknown.address"},
	})
}

func TestVPC(t *testing.T) {
	open := `
		group open basic accept
		open: ingress accept all - {any}
		web-1 in open
		db-1 in open`
	runPolicyTests(t, Families(), []policyTest{
		{"two ends in one VPC", open, "web-1 > db-1 tcp/443", "pass vpc vpc.same"},
		{"two ends in one vSwitch", open, "web-2 > web-1 tcp/443", "pass vpc vpc.same"},
		{"an instance reaches an uplink", "", "web-1 > internet tcp/443", "pass vpc vpc.uplink"},
		{"an uplink reaches an instance", open, "internet > web-1 tcp/443", "pass vpc vpc.uplink"},
		{"another VPC is out of reach", open, "web-1 > alien-1 tcp/443", "drop vpc vpc.isolated"},
		{"another VPC cannot reach in", open, "alien-1 > web-1 tcp/443", "drop vpc vpc.isolated"},
		{"a flow of another VPC is dropped even when it is established", open, "alien-1 > web-1 tcp/443 state=established", "drop vpc vpc.isolated"},
		{"a free address of another VPC is out of reach", open, "web-1 > free.alien tcp/443", "drop vpc vpc.isolated"},
		{"a link that is neither vSwitch nor uplink reaches nothing", open, "internet > web-1 tcp/443 via=foreign", "drop vpc link.foreign"},
		{"an address of the VPC in no vSwitch has no route", open, "web-1 > free.lab tcp/443", "drop vpc vpc.no-route"},
		{"a vSwitch behind a relay has no route", open, "web-1 > far tcp/443", "drop vpc vpc.no-route"},
		{"a relayed vSwitch has no gateway here", open, "web-1 > gw.far udp/53", "drop vpc vpc.no-route"},
		{"what is none of ours is left alone", "", "internet > internet.2nd tcp/443", "pass vpc vpc.not-ours"},
		{"a foreign link may talk to the world", "", "internet > internet.2nd tcp/443 via=foreign", "pass vpc vpc.not-ours"},
		{"multicast on an uplink is left alone", "", "internet > multicast udp/5353", "pass vpc vpc.not-ours"},
		{"the gateway itself reaches its guests", "", "gw.web > web-1 tcp/22 via=gateway", "pass vpc vpc.host"},
	})
	t.Run("without uplinks there is no way out", func(t *testing.T) {
		for _, f := range Families() {
			w := newWorld(t, f, "")
			w.snap = NewSnapshot(w.spec, Host{}, 1)
			if got, want := w.summary(Evaluate(w.snap, w.packet("web-1 > internet tcp/443")), "vpc"), "drop vpc vpc.no-route"; got != want {
				t.Errorf("%s: got %q, want %q", f, got, want)
			}
		}
	})
}

func TestHostAccess(t *testing.T) {
	closed := `
		group closed advanced drop
		web-1 in closed
		acl closed on web`
	runPolicyTests(t, Families(), []policyTest{
		{"DNS over UDP", "", "web-1 > gw.web udp/53", "accept host-access host.service"},
		{"DNS over TCP", "", "web-1 > gw.web tcp/53", "accept host-access host.service"},
		{"DNS at the gateway address of another vSwitch of the VPC", "", "web-1 > gw.db udp/53", "accept host-access host.service"},
		{"DNS whatever groups and ACLs say", closed, "web-1 > gw.web udp/53", "accept host-access host.service"},
		{"echo", "", "web-1 > gw.web ping", "accept host-access host.service"},
		{"echo whatever groups and ACLs say", closed, "web-1 > gw.web ping", "accept host-access host.service"},
		{"what hostAccess lists", "", "web-1 > gw.web tcp/22", "accept host-access host.access"},
		{"hostAccess of its vSwitch", "", "web-1 > gw.web tcp/2222", "accept host-access host.access"},
		{"hostAccess of its vSwitch, at another gateway address", "", "web-1 > gw.db tcp/2222", "accept host-access host.access"},
		{"hostAccess of another vSwitch", "", "db-1 > gw.db tcp/2222", "drop host-access host.closed"},
		{"hostAccess of another VPC", "", "web-1 > gw.web tcp/2223", "drop host-access host.closed"},
		{"hostAccess of its VPC", "", "alien-1 > gw.alien tcp/2223", "accept host-access host.access"},
		{"hostAccess is by protocol", "", "web-1 > gw.web udp/22", "drop host-access host.closed"},
		{"nothing else", "", "web-1 > gw.web tcp/8080", "drop host-access host.closed"},
		{"no other protocol", "", "web-1 > gw.web gre", "drop host-access host.closed"},
		{"an answer to the gateway", "", "web-1 > gw.web tcp/45000 sport=8080 state=established", "accept host-access host.reply"},
		{"a path-MTU error of a flow of the gateway", "", "web-1 > gw.web too-big state=related", "accept host-access host.reply"},
		{"DNS of another VPC is not served", "", "web-1 > gw.alien udp/53", "drop host-access host.foreign"},
		{"a gateway address of another VPC does not echo", "", "alien-1 > gw.web ping", "drop host-access host.foreign"},
		{"from an uplink no gateway address answers", "", "internet > gw.web udp/53", "drop host-access host.outside"},
		{"from a foreign link no gateway address answers", "", "internet > gw.web ping via=foreign", "drop host-access host.outside"},
		{"an answer from an uplink to the gateway", "", "internet > gw.web tcp/45000 sport=80 state=established", "accept host-access host.reply"},
		{"DNS to multicast is not offered", "", "web-1 > multicast udp/53", "drop host-access host.closed"},
		{"multicast reaches nobody", "", "web-1 > multicast udp/5353", "drop host-access host.closed"},
		{"hostAccess is not offered to multicast", "", "web-1 > everybody tcp/22", "drop host-access host.closed"},
		{"DHCP with an address", "", "web-1 > gw.web dhcp", "accept host-access host.service"},
	})
	runPolicyTests(t, []Family{IPv6}, []policyTest{
		{"DNS at the router's link-local address", "", "web-1 > router udp/53", "accept host-access host.service"},
		{"echo of the router's link-local address", "", "linklocal > router ping via=web mac=web-1", "accept host-access host.service"},
		{"hostAccess at the router's link-local address", "", "web-1 > router tcp/22", "accept host-access host.access"},
		{"neighbour solicitation of the gateway", "", "web-1 > gw.web type/135", "accept host-access host.service"},
		{"neighbour advertisement to the gateway", "", "web-1 > router type/136", "accept host-access host.service"},
		{"multicast listener report", "", "linklocal > all-routers type/143 via=web mac=web-1", "accept host-access host.service"},
		{"multicast listener query is for routers", "", "linklocal > everybody type/130 via=web mac=web-1", "drop host-access host.closed"},
		{"redirects are for routers", "", "linklocal > router type/137 via=web mac=web-1", "drop host-access host.closed"},
		{"neighbour discovery of another VPC's gateway", "", "web-1 > gw.alien type/135", "drop host-access host.foreign"},
	})
}

// The fields of a rule, as semantics 5.2 lists them.
func TestRuleFields(t *testing.T) {
	in := func(rule string) string {
		return "group app basic drop\n db-1 in app\n group peer basic drop\n web-1 in peer\n app: " + rule
	}
	const admitted = "accept sg-ingress sg.rule r1"
	const refused = "drop sg-ingress sg.default.basic.ingress"
	runPolicyTests(t, Families(), []policyTest{
		{"an accept rule accepts", in("ingress accept tcp 443 {any}"), "web-1 > db-1 tcp/443", admitted},
		{"a drop rule drops", in("ingress drop tcp 443 {any}"), "web-1 > db-1 tcp/443", "drop sg-ingress sg.rule r1"},
		{"an egress rule says nothing about ingress", in("egress accept tcp 443 {any}"), "web-1 > db-1 tcp/443", refused},
		{"tcp is not udp", in("ingress accept tcp 443 {any}"), "web-1 > db-1 udp/443", refused},
		{"udp is not tcp", in("ingress accept udp 443 {any}"), "web-1 > db-1 tcp/443", refused},
		{"all is every protocol", in("ingress accept all - {any}"), "web-1 > db-1 gre", admitted},
		{"all is every protocol with ports", in("ingress accept all - {any}"), "web-1 > db-1 udp/9", admitted},
		{"gre is gre", in("ingress accept gre - {any}"), "web-1 > db-1 gre", admitted},
		{"gre is not tcp", in("ingress accept gre - {any}"), "web-1 > db-1 tcp/47", refused},
		{"a protocol by number is that protocol", in("ingress accept 99 - {any}"), "web-1 > db-1 99", admitted},
		{"a protocol by number is no other", in("ingress accept 99 - {any}"), "web-1 > db-1 100", refused},
		{"number 6 is tcp with its ports", in("ingress accept 6 443 {any}"), "web-1 > db-1 tcp/443", admitted},
		{"number 17 is udp with its ports", in("ingress accept 17 53 {any}"), "web-1 > db-1 udp/54", refused},
		{"the family's ICMP matches", in("ingress accept {icmp} - {any}"), "web-1 > db-1 ping", admitted},
		{"a rule means all of ICMP", in("ingress accept {icmp} - {any}"), "web-1 > db-1 unreachable", admitted},
		{"the family's ICMP by number matches", in("ingress accept {icmp-number} - {any}"), "web-1 > db-1 ping", admitted},
		{"the other family's ICMP does not exist here", in("ingress accept {icmp-other} - sg:peer"), "web-1 > db-1 {icmp-other}", refused},
		{"nor by its number", in("ingress accept {icmp-other-number} - sg:peer"), "web-1 > db-1 {icmp-other-number}", refused},
		{"but all protocols contain that number", in("ingress accept all - sg:peer"), "web-1 > db-1 {icmp-other-number}", admitted},
		{"without ports every port", in("ingress accept tcp - {any}"), "web-1 > db-1 tcp/1", admitted},
		{"the first port of a range", in("ingress accept tcp 22-24 {any}"), "web-1 > db-1 tcp/22", admitted},
		{"the last port of a range", in("ingress accept tcp 22-24 {any}"), "web-1 > db-1 tcp/24", admitted},
		{"the port before a range", in("ingress accept tcp 22-24 {any}"), "web-1 > db-1 tcp/21", refused},
		{"the port after a range", in("ingress accept tcp 22-24 {any}"), "web-1 > db-1 tcp/25", refused},
		{"a list of ports and ranges", in("ingress accept tcp 80,443,8000-8100 {any}"), "web-1 > db-1 tcp/8050", admitted},
		{"between the ports of a list", in("ingress accept tcp 80,443,8000-8100 {any}"), "web-1 > db-1 tcp/444", refused},
		{"ports are destination ports", in("ingress accept tcp 443 {any}"), "web-1 > db-1 tcp/444 sport=443", refused},
		{"source ports that match", in("ingress accept udp 5000 {any} sport 4000-4010"), "web-1 > db-1 udp/5000 sport=4010", admitted},
		{"source ports that do not", in("ingress accept udp 5000 {any} sport 4000-4010"), "web-1 > db-1 udp/5000 sport=4011", refused},
		{"source ports alone", in("ingress accept udp - {any} sport 4000"), "web-1 > db-1 udp/9 sport=4000", admitted},
		{"a prefix with the peer in it", in("ingress accept tcp 443 {web}"), "web-1 > db-1 tcp/443", admitted},
		{"a prefix without the peer", in("ingress accept tcp 443 {db}"), "web-1 > db-1 tcp/443", refused},
		{"one address", in("ingress accept tcp 443 {web-1}"), "web-1 > db-1 tcp/443", admitted},
		{"one address is not the secondary one", in("ingress accept tcp 443 {web-1}"), "web-1.2nd > db-1 tcp/443", refused},
		{"a prefix of the other family", in("ingress accept all - {any-other}"), "web-1 > db-1 tcp/443", refused},
		{"a group with the peer in it", in("ingress accept tcp 443 sg:peer"), "web-1 > db-1 tcp/443", admitted},
		{"a group stands for secondary addresses too", in("ingress accept tcp 443 sg:peer"), "web-1.2nd > db-1 tcp/443", admitted},
		{"a group without the peer", in("ingress accept tcp 443 sg:peer"), "web-2 > db-1 tcp/443", refused},
		{"a group never contains the outside", in("ingress accept tcp 443 sg:peer"), "internet > db-1 tcp/443", refused},
		{"an address outside by prefix", in("ingress accept tcp 443 {any}"), "internet > db-1 tcp/443", admitted},
		{"a drop of an address that is outside", in("ingress drop tcp 443 {internet}"), "internet > db-1 tcp/443", "drop sg-ingress sg.rule r1"},
		{"a five-tuple rule covers the address it names", in("ingress accept tcp 443 {any} of {db-1}"), "web-1 > db-1 tcp/443", admitted},
		{"a five-tuple rule covers no other address of the interface", in("ingress accept tcp 443 {any} of {db-1}"), "web-1 > db-1.2nd tcp/443", refused},
		{"a five-tuple rule may cover a range", in("ingress accept tcp 443 {any} of {db}"), "web-1 > db-1.2nd tcp/443", admitted},
		{"all five at once", in("ingress accept udp 5000 {web} of {db-1} sport 4000"), "web-1 > db-1 udp/5000 sport=4000", admitted},
	})

	runPolicyTests(t, []Family{IPv4}, []policyTest{
		{"number 51 is a protocol of IPv4", in("ingress accept 51 - sg:peer"), "web-1 > db-1 51", admitted},
	})
	runPolicyTests(t, []Family{IPv6}, []policyTest{
		{"number 51 is an extension header of IPv6", in("ingress accept 51 - sg:peer"), "web-1 > db-1 51", refused},
	})

	list := func(entries string) string {
		return "list listed " + entries + "\n" + in("ingress accept tcp 443 pl:listed")
	}
	runPolicyTests(t, Families(), []policyTest{
		{"a prefix list with the peer in an entry", list("{db} {web}"), "web-1 > db-1 tcp/443", admitted},
		{"a prefix list without the peer", list("{db}"), "web-1 > db-1 tcp/443", refused},
		{"an empty prefix list contains nobody", list(""), "web-1 > db-1 tcp/443", refused},
	})

	out := func(rule string) string {
		return "group app advanced drop\n web-1 in app\n group peer basic drop\n db-1 in peer\n peer: ingress accept all - {any}\n app: " + rule
	}
	const sent, kept = "accept sg-egress sg.rule r2", "drop sg-egress sg.default.advanced.egress"
	runPolicyTests(t, Families(), []policyTest{
		{"an egress rule is about the destination", out("egress accept tcp 443 {db}"), "web-1 > db-1 tcp/443", sent},
		{"an egress rule is not about the source", out("egress accept tcp 443 {web}"), "web-1 > db-1 tcp/443", kept},
		{"an egress rule's ports are destination ports", out("egress accept tcp 443 {db}"), "web-1 > db-1 tcp/80 sport=443", kept},
		{"an egress five-tuple covers the source it names", out("egress accept tcp 443 {db} of {web-1}"), "web-1 > db-1 tcp/443", sent},
		{"an egress five-tuple covers no other source", out("egress accept tcp 443 {db} of {web-1}"), "web-1.2nd > db-1 tcp/443", kept},
		{"an egress drop rule", out("egress drop tcp 443 {db}"), "web-1 > db-1 tcp/443", "drop sg-egress sg.rule r2"},
		{"egress to outside by prefix", out("egress accept tcp 443 {internet}"), "web-1 > internet tcp/443", sent},
	})
}

// How rules, inner access and defaults act together: semantics 5.3.
func TestGroups(t *testing.T) {
	const worked1 = `
		group g1 basic drop
		group g2 basic accept
		group g3 basic accept
		web-1 in g1,g2
		web-2 in g1,g2,g3
		web-3 in g3`
	const worked2 = `
		group g1 basic drop
		group g2 basic accept
		web-1 in g1
		web-2 in g1,g2
		web-3 in g2`
	const inner, isolated = "accept sg-ingress sg.inner", "drop sg-ingress sg.default.basic.ingress"
	runPolicyTests(t, Families(), []policyTest{
		{"worked example one: 1 and 2 are connected", worked1, "web-1 > web-2 tcp/443", inner},
		{"worked example one: 2 and 1 are connected", worked1, "web-2 > web-1 tcp/443", inner},
		{"worked example one: 2 and 3 are connected", worked1, "web-2 > web-3 tcp/443", inner},
		{"worked example one: 1 and 3 are isolated", worked1, "web-1 > web-3 tcp/443", isolated},
		{"worked example one: 3 and 1 are isolated", worked1, "web-3 > web-1 tcp/443", isolated},
		{"worked example two: 1 and 2 are isolated", worked2, "web-1 > web-2 tcp/443", isolated},
		{"worked example two: 2 and 3 are connected", worked2, "web-2 > web-3 tcp/443", inner},
		{"worked example two: 1 and 3 are isolated", worked2, "web-1 > web-3 tcp/443", isolated},
		{"worked example three: custom rules open an isolating group", `
			group g1 basic drop
			web-1 in g1
			web-2 in g1
			g1: ingress accept tcp 443 sg:g1`, "web-1 > web-2 tcp/443", "accept sg-ingress sg.rule r1"},
		{"worked example three: and open nothing else", `
			group g1 basic drop
			web-1 in g1
			web-2 in g1
			g1: ingress accept tcp 443 sg:g1`, "web-1 > web-2 tcp/80", isolated},
	})

	member := "group app basic accept\n web-1 in app\n web-2 in app\n db-1 in app\n"
	runPolicyTests(t, Families(), []policyTest{
		{"members are connected across vSwitches", member, "web-1 > db-1 tcp/443", inner},
		{"members are connected at secondary addresses", member, "web-1.2nd > db-1.2nd tcp/443", inner},
		{"members are connected for every protocol", member, "web-1 > db-1 gre", inner},
		{"an explicit ingress drop between members is ignored", member + "app: ingress drop all - {any}", "web-1 > db-1 tcp/443", inner},
		{"an explicit egress drop between members is ignored", member + "app: egress drop all - {any}", "web-1 > db-1 tcp/443", "accept sg-egress sg.inner"},
		{"an explicit drop of another group between members is ignored", member + "group ops basic drop\n db-1 in app,ops\n ops: ingress drop all - {any}", "web-1 > db-1 tcp/443", inner},
		{"inner access admits nobody else", member, "web-3 > web-1 tcp/443", isolated},
		{"inner access admits nobody from outside", member, "internet > web-1 tcp/443", isolated},
		{"isolation leaves the default egress open", "group app basic drop\n web-1 in app", "web-1 > internet tcp/443", "accept sg-egress sg.default.basic.egress"},
		{"members of an advanced group are isolated", "group app advanced drop\n web-1 in app\n db-1 in app\n app: egress accept all - {any}", "web-1 > db-1 tcp/443", "drop sg-ingress sg.default.advanced.ingress"},
		{"an advanced group is opened by a prefix", "group app advanced drop\n web-1 in app\n db-1 in app\n app: egress accept all - {any}\n app: ingress accept tcp 443 {web}", "web-1 > db-1 tcp/443", "accept sg-ingress sg.rule r2"},

		{"basic without rules admits nobody in", "group app basic accept\n db-1 in app", "web-1 > db-1 tcp/443", isolated},
		{"basic without rules lets everything out", "group app basic accept\n web-1 in app", "web-1 > internet udp/53", "accept sg-egress sg.default.basic.egress"},
		{"advanced without rules admits nobody in", "group app advanced drop\n db-1 in app", "web-1 > db-1 tcp/443", "drop sg-ingress sg.default.advanced.ingress"},
		{"advanced without rules lets nothing out", "group app advanced drop\n web-1 in app", "web-1 > internet udp/53", "drop sg-egress sg.default.advanced.egress"},
		{"the sender's egress is asked before the receiver's ingress", "group app advanced drop\n web-1 in app\n db-1 in app", "web-1 > db-1 tcp/443", "drop sg-egress sg.default.advanced.egress"},
		{"the outside has no groups", "group app basic drop\n db-1 in app\n app: ingress accept all - {any}", "internet > db-1 tcp/443", "pass sg-egress sg.outside"},
		{"nor on the way out", "", "web-1 > internet tcp/443", "pass sg-ingress sg.outside"},
		{"an address that no interface has", "", "web-1 > free.web tcp/443", "drop sg-ingress unknown.address"},
		{"an address that no interface has, from outside", "", "internet > free.web tcp/443", "drop sg-ingress unknown.address"},
	})

	two := "group a basic drop\n group b basic drop\n db-1 in a,b\n"
	const r1, r2 = "accept sg-ingress sg.rule r1", "accept sg-ingress sg.rule r2"
	runPolicyTests(t, Families(), []policyTest{
		{"a smaller priority is stronger", two + "a: ingress drop all - {any} prio 2\n a: ingress accept tcp 443 {any} prio 1", "web-1 > db-1 tcp/443", r2},
		{"a larger priority is weaker", two + "a: ingress drop all - {any} prio 1\n a: ingress accept tcp 443 {any} prio 2", "web-1 > db-1 tcp/443", "drop sg-ingress sg.rule r1"},
		{"the order of rules does not matter", two + "a: ingress accept tcp 443 {any} prio 1\n a: ingress drop all - {any} prio 2", "web-1 > db-1 tcp/443", r1},
		{"priorities hold across groups", two + "a: ingress drop all - {any} prio 50\n b: ingress accept tcp 443 {any} prio 49", "web-1 > db-1 tcp/443", r2},
		{"at one priority drop stands before accept", two + "a: ingress accept tcp 443 {any} prio 5\n a: ingress drop tcp 443 {any} prio 5", "web-1 > db-1 tcp/443", "drop sg-ingress sg.rule r2"},
		{"at one priority drop stands before accept across groups", two + "a: ingress accept tcp 443 {any} prio 5\n b: ingress drop tcp 443 {any} prio 5", "web-1 > db-1 tcp/443", "drop sg-ingress sg.rule r2"},
		{"at one priority and policy the smaller ID is named", two + "b: ingress accept tcp 443 {any}\n a: ingress accept all - {any}", "web-1 > db-1 tcp/443", r1},
		{"what one group does not admit another does", two + "a: ingress accept tcp 80 {any}\n b: ingress accept tcp 443 {any}", "web-1 > db-1 tcp/443", r2},
		{"a rule that does not match decides nothing", two + "a: ingress drop tcp 80 {any}\n b: ingress accept tcp 443 {any} prio 100", "web-1 > db-1 tcp/443", r2},
		{"an egress drop wins over the default", "group a basic drop\n web-1 in a\n a: egress drop udp 53 {any}", "web-1 > internet udp/53", "drop sg-egress sg.rule r1"},
		{"a five-tuple of a shared group names each member's own address", `
			group a basic drop
			db-1 in a
			db-2 in a
			a: ingress accept tcp 443 {any} of {db-2}`, "web-1 > db-1 tcp/443", isolated},
		{"a group may name itself", "group a basic drop\n db-1 in a\n db-2 in a\n a: ingress accept tcp 443 sg:a", "db-2 > db-1 tcp/443", r1},
		{"a rule that names a group follows who is in it", "group a basic drop\n group b basic drop\n db-1 in a\n web-1 in alone,b\n a: ingress accept tcp 443 sg:b", "web-1 > db-1 tcp/443", r1},
		{"and who is not", "group a basic drop\n group b basic drop\n db-1 in a\n web-2 in b\n a: ingress accept tcp 443 sg:b", "web-1 > db-1 tcp/443", isolated},
	})
}

// What an ACL sees, and how its entries are read: semantics 6.2 and 6.3.
func TestNetworkACLs(t *testing.T) {
	base := "group open basic accept\n open: ingress accept all - {any} prio 100\n web-1 in open\n web-2 in open\n db-1 in open\n"
	on := func(lines string) string { return base + "acl x on web\n" + strings.ReplaceAll(lines, ";", "\n") }
	both := func(lines string) string {
		return base + "acl x on web\n acl y on db\n" + strings.ReplaceAll(lines, ";", "\n")
	}
	const out, in = "drop nacl-egress nacl.default", "drop nacl-ingress nacl.default"
	runPolicyTests(t, Families(), []policyTest{
		{"inside one vSwitch nothing is filtered", on(""), "web-1 > web-2 tcp/443", "pass nacl-egress nacl.same"},
		{"nor on the way in", on(""), "web-1 > web-2 tcp/443", "pass nacl-ingress nacl.same"},
		{"between two vSwitches the sender's outbound list is asked", on(""), "web-1 > db-1 tcp/443", out},
		{"between two vSwitches the receiver's inbound list is asked", on(""), "db-1 > web-1 tcp/443", in},
		{"both lists are asked", both("x: egress accept all - {any}"), "web-1 > db-1 tcp/443", in},
		{"both lists must accept", both("x: egress accept all - {any}; y: ingress accept all - {any}"), "web-1 > db-1 tcp/443", "accept nacl-ingress nacl.entry r3"},
		{"to the outside", on(""), "web-1 > internet tcp/443", out},
		{"from the outside", on(""), "internet > web-1 tcp/443", in},
		{"the outside has no ACL", on("x: egress accept all - {any}"), "web-1 > internet tcp/443", "pass nacl-ingress nacl.outside"},
		{"a vSwitch without an ACL is unfiltered", base, "web-1 > db-1 tcp/443", "accept nacl-egress nacl.none"},
		{"an ACL without entries admits nothing", on(""), "web-1 > db-1 gre", out},
		{"the gateway is not behind the ACL", on(""), "web-1 > gw.db udp/53", "accept host-access host.service"},
		{"another VPC is refused before the ACL", on(""), "web-1 > alien-1 tcp/443", "drop vpc vpc.isolated"},

		{"established packets are judged too", on("x: egress accept tcp 443 {any}"), "db-1 > web-1 tcp/40000 state=established", in},
		{"replies need their own entry", on("x: egress accept tcp 443 {any}; x: ingress accept tcp 1024-65535 {any}"), "db-1 > web-1 tcp/40000 state=established", "accept conntrack conntrack.established"},
		{"path-MTU errors of known flows always pass", on(""), "db-1 > web-1 too-big state=related", "accept nacl-ingress nacl.system"},
		{"path-MTU errors of known flows pass outward", on(""), "web-1 > internet too-big state=related", "accept nacl-egress nacl.system"},
		{"path-MTU errors of no known flow do not", on(""), "db-1 > web-1 too-big", in},
		{"other errors of known flows need an entry", on(""), "db-1 > web-1 unreachable state=related", in},
		{"other errors of known flows pass with one", on("x: ingress accept {icmp} - {any}"), "db-1 > web-1 unreachable state=related", "accept conntrack conntrack.related"},

		{"the first match decides: accept", on("x: egress accept tcp 443 {any}; x: egress drop all - {any}"), "web-1 > db-1 tcp/443", "accept nacl-egress nacl.entry r2"},
		{"the first match decides: drop", on("x: egress drop tcp 443 {any}; x: egress accept all - {any}"), "web-1 > db-1 tcp/443", "drop nacl-egress nacl.entry r2"},
		{"an entry that does not match is passed over", on("x: egress drop tcp 80 {any}; x: egress accept all - {any}"), "web-1 > db-1 tcp/443", "accept nacl-egress nacl.entry r3"},
		{"what matches nothing is dropped", on("x: egress accept tcp 80 {any}"), "web-1 > db-1 tcp/443", out},
		{"outbound entries are about the destination", on("x: egress accept all - {db}"), "web-1 > db-1 tcp/443", "accept nacl-egress nacl.entry r2"},
		{"outbound entries are not about the source", on("x: egress accept all - {web}"), "web-1 > db-1 tcp/443", out},
		{"inbound entries are about the source", on("x: ingress accept all - {db}"), "db-1 > web-1 tcp/443", "accept nacl-ingress nacl.entry r2"},
		{"inbound entries are not about the destination", on("x: ingress accept all - {web}"), "db-1 > web-1 tcp/443", in},
		{"inbound ports are destination ports", on("x: ingress accept tcp 443 {any}"), "db-1 > web-1 tcp/443 sport=50000", "accept nacl-ingress nacl.entry r2"},
		{"inbound ports are not source ports", on("x: ingress accept tcp 443 {any}"), "db-1 > web-1 tcp/50000 sport=443", in},
		{"outbound ports are destination ports", on("x: egress accept udp 1-1024 {any}"), "web-1 > db-1 udp/53", "accept nacl-egress nacl.entry r2"},
		{"outbound ports are not source ports", on("x: egress accept udp 53 {any}"), "web-1 > db-1 udp/5353 sport=53", out},
		{"all is every protocol of the family", on("x: egress accept all - {any}"), "web-1 > db-1 99", "accept nacl-egress nacl.entry r2"},
		{"an entry with a prefix of the other family matches nothing", on("x: egress accept all - {any-other}"), "web-1 > db-1 tcp/443", out},
		{"a drop with a prefix of the other family drops nothing", on("x: egress drop all - {any-other}; x: egress accept all - {any}"), "web-1 > db-1 tcp/443", "accept nacl-egress nacl.entry r3"},
		{"an entry is for all of the family's ICMP", on("x: egress accept {icmp} - {any}"), "web-1 > db-1 ping", "accept nacl-egress nacl.entry r2"},
		{"the other family's ICMP does not exist here", on("x: egress accept {icmp-other} - {any}"), "web-1 > db-1 ping", out},
		{"nor does its number mean it", on("x: egress accept {icmp-other} - {any}"), "web-1 > db-1 {icmp-other-number}", out},
		{"gre by entry", on("x: egress accept gre - {any}"), "web-1 > db-1 gre", "accept nacl-egress nacl.entry r2"},
		{"a prefix list by entry", "list listed {db}\n" + on("x: egress accept tcp 443 pl:listed"), "web-1 > db-1 tcp/443", "accept nacl-egress nacl.entry r2"},
		{"a prefix list without the address", "list listed {web}\n" + on("x: egress accept tcp 443 pl:listed"), "web-1 > db-1 tcp/443", out},
		{"an ACL does not open what a group closes", on("x: ingress accept all - {any}") + "\n web-1 in alone", "db-1 > web-1 tcp/443", "drop sg-ingress sg.default.basic.ingress"},
		{"a group does not open what an ACL closes", on(""), "web-1 > db-1 tcp/443", out},
	})
}

func TestConntrack(t *testing.T) {
	closed := "group closed advanced drop\n web-1 in closed\n db-1 in closed\n"
	open := "group open basic accept\n web-1 in open\n db-1 in open\n"
	runPolicyTests(t, Families(), []policyTest{
		{"packets of an admitted flow pass whatever the groups say", closed, "web-1 > db-1 tcp/443 nosyn state=established", "accept conntrack conntrack.established"},
		{"replies pass whatever the groups say", closed, "internet > web-1 udp/40000 sport=53 state=established", "accept conntrack conntrack.established"},
		{"errors about an admitted flow pass whatever the groups say", closed, "internet > web-1 unreachable state=related", "accept conntrack conntrack.related"},
		{"errors about no flow are judged by the groups", closed, "internet > web-1 unreachable", "drop sg-ingress sg.default.advanced.ingress"},
		{"related flows that are no errors are judged by the groups", closed, "web-1 > db-1 tcp/20 state=related", "drop sg-egress sg.default.advanced.egress"},
		{"related flows that are no errors need no SYN", open, "web-1 > db-1 tcp/20 nosyn state=related", "accept sg-ingress sg.inner"},
		{"a related echo is no error", closed, "web-1 > db-1 ping state=related", "drop sg-egress sg.default.advanced.egress"},
		{"invalid packets are dropped", open, "web-1 > db-1 tcp/443 state=invalid", "drop conntrack conntrack.invalid"},
		{"a TCP packet of no known flow that opens none is dropped", open, "web-1 > db-1 tcp/443 nosyn", "drop conntrack conntrack.not-syn"},
		{"a TCP packet that opens a flow goes on to the groups", open, "web-1 > db-1 tcp/443", "pass conntrack conntrack.new"},
	})
}

func TestStagesAfterADropAreListed(t *testing.T) {
	for _, f := range Families() {
		w := newWorld(t, f, "acl x on web\n group closed advanced drop\n web-1 in closed")
		v := Evaluate(w.snap, w.packet("web-1 > db-1 tcp/443 mac=web-2"))
		var got []string
		for _, r := range v.Stages {
			got = append(got, string(r.Stage)+" "+string(r.Verdict))
		}
		want := []string{"anti-spoof drop", "vpc pass", "nacl-egress drop", "nacl-ingress accept", "conntrack pass", "sg-egress drop", "sg-ingress drop"}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", f, got, want)
		}
	}
}

func TestDetailsReadAsPublished(t *testing.T) {
	for _, f := range Families() {
		w := newWorld(t, f, `
			group web basic drop
			group db basic drop
			group app basic drop
			web-1 in web
			db-1 in db
			acl dmz on web
			dmz: egress accept all - {any}
			db: ingress accept tcp 5432 sg:app`)
		p := w.packet("web-1 > db-1 tcp/5432")
		want := map[Stage]string{
			StageAntiSpoof:   "source belongs to eni-web-1",
			StageVPC:         "same VPC",
			StageNACLEgress:  "dmz entry 1",
			StageNACLIngress: "vswitch db has no ACL",
			StageSGEgress:    "default of basic group web",
			StageSGIngress:   "default of basic group db: no rule admits it",
		}
		for _, r := range Evaluate(w.snap, p).Stages {
			if d, ok := want[r.Stage]; ok && r.Detail != d {
				t.Errorf("%s: %s says %q, want %q", f, r.Stage, r.Detail, d)
			}
		}
		hint, ok := Nearest(w.snap, p, StageSGIngress)
		if want := "r2 accepts tcp/5432 from sg:app; web-1 is not in app"; !ok || hint.Detail != want || hint.Rule != "r2" {
			t.Errorf("%s: nearest is %+v, want %q", f, hint, want)
		}
	}
}

func TestNearest(t *testing.T) {
	const db = "group db basic drop\n db-1 in db\n"
	tests := []struct {
		name, world, packet string
		stage               Stage
		want                string // with {…}; empty: no hint
	}{
		{"another port", db + "db: ingress accept tcp 443 {any}", "web-1 > db-1 tcp/80", StageSGIngress, "r1 accepts tcp/443 from {any}; port 80 is not among 443"},
		{"another peer", db + "db: ingress accept tcp 443 {db}", "web-1 > db-1 tcp/443", StageSGIngress, "r1 accepts tcp/443 from {db}; {web-1} is not in {db}"},
		{"another protocol", db + "db: ingress accept tcp 443 {any}", "web-1 > db-1 udp/443", StageSGIngress, "r1 accepts tcp/443 from {any}; the packet is udp/443"},
		{"another source port", db + "db: ingress accept tcp 443 {any} sport 1-1023", "web-1 > db-1 tcp/443", StageSGIngress, "r1 accepts tcp/443 from {any} source ports 1-1023; source port 40000 is not among 1-1023"},
		{"another address of the interface", db + "db: ingress accept tcp 443 {web} of {db-1.2nd}", "web-1 > db-1 tcp/443", StageSGIngress, "r1 accepts tcp/443 from {web} to {db-1.2nd}; {db-1} is not {db-1.2nd}"},
		{"a stronger drop", db + "db: ingress drop all - {web}\n db: ingress accept tcp 443 {any} prio 2", "web-1 > db-1 tcp/443", StageSGIngress, "r2 accepts tcp/443 from {any}; r1 comes first"},
		{"the one that lacks least", db + "db: ingress accept udp 443 {any}\n db: ingress accept tcp 80 {db}\n db: ingress accept tcp 443 {db}", "web-1 > db-1 tcp/443", StageSGIngress, "r3 accepts tcp/443 from {db}; {web-1} is not in {db}"},
		{"nothing like it", db + "db: ingress accept udp 443 {db}", "web-1 > db-1 tcp/80", StageSGIngress, ""},
		{"no rule at all", db, "web-1 > db-1 tcp/80", StageSGIngress, ""},
		{"only drops", db + "db: ingress drop tcp 80 {any}", "web-1 > db-1 tcp/80", StageSGIngress, ""},
		{"the packet passes", db + "db: ingress accept tcp 80 {any}", "web-1 > db-1 tcp/80", StageSGIngress, ""},
		{"egress", "group x advanced drop\n web-1 in x\n x: egress accept tcp 443 {db}", "web-1 > internet tcp/443", StageSGEgress, "r1 accepts tcp/443 to {db}; {internet} is not in {db}"},
		{"a group that the outside is not in", db + "db: ingress accept tcp 443 sg:db", "internet > db-1 tcp/443", StageSGIngress, "r1 accepts tcp/443 from sg:db; {internet} is not in db"},
		{"an ACL entry for another port", "acl x on web\n x: egress accept tcp 443 {any}", "web-1 > db-1 tcp/80", StageNACLEgress, "x entry 1 accepts tcp/443 to {any}; port 80 is not among 443"},
		{"an ACL entry for another peer", "acl x on db\n x: ingress accept all - {db}", "web-1 > db-1 tcp/80", StageNACLIngress, "x entry 1 accepts all from {db}; {web-1} is not in {db}"},
		{"an ACL entry behind a drop", "acl x on web\n x: egress drop tcp - {any}\n x: egress accept all - {any}", "web-1 > db-1 tcp/80", StageNACLEgress, "x entry 2 accepts all to {any}; x entry 1 comes first"},
		{"a vSwitch without an ACL", "", "web-1 > db-1 tcp/80", StageNACLEgress, ""},
		{"a stage without rules", "", "web-1 > alien-1 tcp/80", StageVPC, ""},
	}
	for _, tt := range tests {
		for _, f := range Families() {
			t.Run(tt.name+"/"+f.String(), func(t *testing.T) {
				w := newWorld(t, f, tt.world)
				hint, ok := Nearest(w.snap, w.packet(tt.packet), tt.stage)
				if want := w.expand(tt.want); hint.Detail != want || ok != (want != "") {
					t.Errorf("got %q (%t), want %q", hint.Detail, ok, want)
				}
			})
		}
	}
}
