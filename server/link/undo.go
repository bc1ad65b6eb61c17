package link

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Journal keeps one small document over restarts: what Teardown has to put back. Save must be durable when it returns.
// Load returns nothing when nothing was saved.
type Journal interface {
	Load(ctx context.Context) ([]byte, error)
	Save(ctx context.Context, data []byte) error
}

// undo is what was there before we changed it. It is saved before the change, and values once saved are never overwritten.
type undo struct {
	Boot  string               `json:"boot"`            // the kernel's boot ID: after another boot nothing of this is true
	Host  map[string]saved     `json:"host,omitempty"`  // by sysctl path
	Links map[string]*linkUndo `json:"links,omitempty"` // by name: every link that is managed
	// NetfilterAbsent: br_netfilter was not there when we started. Loading it (a rule can) switches it on for every bridge
	// of the host, so it is switched off once it appears.
	NetfilterAbsent bool `json:"netfilterAbsent,omitempty"`
}

// saved is one sysctl that we changed.
type saved struct {
	Was string `json:"was"`
	Set string `json:"set"`
	// Also are settings that the kernel changes along with this one, as they were.
	Also map[string]string `json:"also,omitempty"`
}

// linkUndo is what we did to one link.
type linkUndo struct {
	VSwitch string                      `json:"vswitch"`           // ID
	Index   int                         `json:"index"`             // another one: the link was made anew by somebody. 0: not yet seen
	Created bool                        `json:"created,omitempty"` // the bridge is ours: it is deleted with everything on it
	Down    bool                        `json:"down,omitempty"`    // it was not up
	Addrs   []netip.Prefix              `json:"addrs,omitempty"`   // those that we added
	Sysctls map[string]saved            `json:"sysctls,omitempty"`
	Bridge  map[uint16]uint32           `json:"bridge,omitempty"` // attributes as they were
	Ports   map[string]map[uint16]uint8 `json:"ports,omitempty"`  // by name: flags as they were where they differ from what the kernel makes
}

// parseUndo reads a saved document. One of another boot counts for nothing.
func parseUndo(data []byte, boot string) (*undo, error) {
	fresh := &undo{Boot: boot, Host: map[string]saved{}, Links: map[string]*linkUndo{}}
	if len(data) == 0 {
		return fresh, nil
	}
	u := &undo{}
	if err := json.Unmarshal(data, u); err != nil {
		return nil, fmt.Errorf("read what was there before gatehouse: %w", err)
	}
	if u.Boot != boot {
		return fresh, nil
	}
	if u.Host == nil {
		u.Host = map[string]saved{}
	}
	if u.Links == nil {
		u.Links = map[string]*linkUndo{}
	}
	maps.DeleteFunc(u.Links, func(_ string, l *linkUndo) bool { return l == nil })
	return u, nil
}

func (u *undo) encode() ([]byte, error) { return json.Marshal(u) }

func (u *undo) clone() *undo {
	c := *u
	c.Host = maps.Clone(u.Host)
	c.Links = make(map[string]*linkUndo, len(u.Links))
	for n, l := range u.Links {
		c.Links[n] = l.clone()
	}
	return &c
}

func (l *linkUndo) clone() *linkUndo {
	c := *l
	c.Addrs = slices.Clone(l.Addrs)
	c.Sysctls = maps.Clone(l.Sysctls)
	c.Bridge = maps.Clone(l.Bridge)
	c.Ports = maps.Clone(l.Ports)
	return &c
}

// rememberPort notes the flags of an adopted bridge's port when it is first seen.
func (l *linkUndo) rememberPort(p *link) {
	if l.Ports[p.name] != nil {
		return
	}
	flags := map[uint16]uint8{}
	for _, f := range portFlags() {
		if have, known := p.port[f.attr]; known && have != f.initial {
			flags[f.attr] = have
		}
	}
	if l.Ports == nil {
		l.Ports = map[string]map[uint16]uint8{}
	}
	l.Ports[p.name] = flags
}

// forgetPorts drops ports that have left: if they come back, the kernel has made them anew.
func (l *linkUndo) forgetPorts(present []*link) {
	maps.DeleteFunc(l.Ports, func(name string, _ map[uint16]uint8) bool {
		return !slices.ContainsFunc(present, func(p *link) bool { return p.name == name })
	})
}
