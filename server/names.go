package server

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"gatehouse/configs"
	"gatehouse/server/api"
	"gatehouse/server/dns"
	"gatehouse/vpc"
)

// tsigKeysOf gives the configured keys as the name server takes them.
func tsigKeysOf(c *configs.Config) []dns.TSIGKey {
	var out []dns.TSIGKey
	for _, k := range c.DNS.TSIGKeys {
		out = append(out, dns.TSIGKey{Name: k.Name, Algorithm: string(k.Algorithm), Secret: k.Secret})
	}
	return out
}

// UpdateZone is part of dns.Updater: a dynamic update is a change like any other, with a revision and an entry in the
// audit log.
func (g *Gateway) UpdateZone(ctx context.Context, vpcID, zone, who string, change func([]*vpc.RecordSpec) ([]*vpc.RecordSpec, error)) error {
	_, err := g.edit(ctx, audit{user: who, verb: "update"}, editOptions{}, func(current *vpc.Spec, _ uint64) (*vpc.Spec, string, error) {
		z, vpcName, err := findZone(current, vpcID, zone)
		if err != nil {
			return nil, "", err
		}
		next := *z
		if next.Records, err = change(z.Records); err != nil {
			return nil, "", err
		}
		if len(next.Records) == len(z.Records) && slices.Equal(next.Records, z.Records) {
			return current, "", nil
		}
		candidate, problems := vpc.Set(current, g.host(), vpcName, &next, g.applyOptions(false))
		if len(problems) > 0 {
			return nil, "", refusedProblems(problems)
		}
		return candidate, "zone " + z.Name, g.check(ctx, current, candidate)
	})
	return err
}

// findZone finds a private zone that a VPC sees: its own, or a shared one, whose VPC name is empty.
func findZone(s *vpc.Spec, vpcID, zone string) (z *vpc.PrivateZoneSpec, vpcName string, err error) {
	same := func(z *vpc.PrivateZoneSpec) bool {
		return strings.EqualFold(strings.TrimSuffix(z.Name, "."), strings.TrimSuffix(zone, "."))
	}
	for _, v := range s.VPCs {
		if v.ID != vpcID {
			continue
		}
		if i := slices.IndexFunc(v.PrivateZones, same); i >= 0 {
			return v.PrivateZones[i], v.Name, nil
		}
		for _, z := range s.PrivateZones {
			if same(z) && slices.Contains(z.VPCs, v.Name) {
				return z, "", nil
			}
		}
	}
	return nil, "", fmt.Errorf("there is no zone %s", zone)
}

// DNSQuery says what an instance of a VPC is answered, and why. Without a VPC's name there must be only one.
func (g *Gateway) DNSQuery(ctx context.Context, vpcName, name, typ string) (*api.DNSAnswer, error) {
	s := g.Snapshot()
	id := ""
	switch {
	case vpcName == "" && len(s.VPCs) == 1:
		id = s.VPCs[0].ID
	case vpcName == "":
		return nil, api.Errorf(api.CodeInvalid, "there are %d VPCs: say which one asks, with --vpc", len(s.VPCs))
	default:
		o, err := vpc.Lookup(s.Spec, vpc.KindVPC, "", vpcName)
		if err != nil {
			return nil, api.Errorf(api.CodeNotFound, "%v", err)
		}
		id = o.VPC.ID
	}
	code, err := dns.ParseType(typ)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "%v", err)
	}
	e, err := g.dns.Query(ctx, id, name, code)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "%v", err)
	}
	return &api.DNSAnswer{VPC: e.VPC, Name: e.Name, Type: e.Type, Rcode: e.Rcode, Answer: e.Answer, Source: e.Source, Revision: e.Revision}, nil
}

// DNSFlush forgets what upstreams said about a name and everything below it, or about all names when it is empty, and
// returns how many answers that were.
func (g *Gateway) DNSFlush(_ context.Context, name string) (int, error) {
	n, err := g.dns.Flush(name)
	if err != nil {
		return 0, api.Errorf(api.CodeInvalid, "%v", err)
	}
	return n, nil
}
