package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gatehouse/configs"
	"gatehouse/firewall"
	"gatehouse/server/api"
	"gatehouse/server/link"
	"gatehouse/server/survey"
	"gatehouse/store"
	"gatehouse/vpc"
)

// applyOptions are what vpc.Apply and vpc.Enrol need from the world.
func (g *Gateway) applyOptions(prune bool) vpc.ApplyOptions {
	quarantined := sync.OnceValue(func() map[netip.Addr]bool { // seldom is an address chosen for anybody
		q, now := map[netip.Addr]bool{}, g.now()
		for _, l := range g.leases.Leases() {
			if l.State == vpc.LeaseDeclined && l.Expires.After(now) {
				q[l.Address] = true
			}
		}
		return q
	})
	return vpc.ApplyOptions{Prune: prune, NewID: vpc.RandomID, InUse: func(a netip.Addr) bool { return quarantined()[a] }}
}

// Apply makes the desired state as the manifests say, or with DryRun says what would change.
func (g *Gateway) Apply(ctx context.Context, r api.ApplyRequest) (*api.ApplyResult, error) {
	manifest, err := parseFiles(r.Files)
	if manifest == nil {
		return nil, err
	}
	names := make([]string, len(r.Files))
	for i, f := range r.Files {
		names[i] = f.Name
	}
	options := editOptions{dryRun: r.DryRun, confirm: r.Confirm, noWait: r.NoWait, timeout: r.Timeout}
	return g.edit(ctx, audit{user: r.User, verb: "apply"}, options, func(current *vpc.Spec, _ uint64) (*vpc.Spec, string, error) {
		candidate, err := g.candidate(ctx, current, manifest, r.Prune)
		return candidate, strings.Join(names, " "), err
	})
}

// audit says who asks for a change and how.
type audit struct{ user, verb, summary string }

// editOptions say how a change is carried out.
type editOptions struct {
	dryRun  bool          // say what would change, and change nothing
	confirm time.Duration // undo it after so long unless it is confirmed; 0: keep it
	undo    bool          // it undoes the change that waits for its confirmation
	ifMatch uint64        // refuse unless this is the newest revision; 0: whatever is
	noWait  bool          // return when it is stored
	timeout time.Duration // how long to wait until it is in force; 0: a minute
}

// edit is the one way in which people change the desired state: f makes the new state from the current one and says in a
// word what it was about; one change at a time, nobody else's in between. It returns when the change is in force.
func (g *Gateway) edit(ctx context.Context, a audit, o editOptions, f func(current *vpc.Spec, revision uint64) (*vpc.Spec, string, error)) (*api.ApplyResult, error) {
	revision, changes, err := g.storeEdit(ctx, a, o, f)
	if err != nil {
		return nil, err
	}
	if !o.dryRun && !o.noWait {
		if err := g.waitInForce(ctx, revision, o.timeout); err != nil {
			return nil, &api.Error{Code: api.CodeNotInForce, Message: err.Error()}
		}
	}
	return g.result(revision, changes), nil
}

// storeEdit is edit up to the store.
func (g *Gateway) storeEdit(ctx context.Context, a audit, o editOptions, f func(*vpc.Spec, uint64) (*vpc.Spec, string, error)) (uint64, []vpc.Change, error) {
	g.change.Lock()
	defer g.change.Unlock()
	current, revision := g.store.State()
	if o.ifMatch != 0 && o.ifMatch != revision {
		return 0, nil, api.Errorf(api.CodeConflict, "revision %d is the newest, not %d: read it again", revision, o.ifMatch)
	}
	candidate, summary, err := f(current, revision)
	if err != nil {
		return 0, nil, err
	}
	changes := vpc.Diff(current, candidate)
	if o.dryRun || len(changes) == 0 {
		return revision, changes, nil
	}
	if !o.undo {
		if err := g.confirm.guard(); err != nil {
			return 0, nil, err
		}
	}
	if o.confirm > 0 {
		if err := g.confirm.begin(ctx, g, revision, o.confirm, a.user); err != nil {
			return 0, nil, err
		}
	}
	a.summary = summary
	stored, err := g.storeSpec(ctx, revision, candidate, changes, a)
	if err != nil {
		if o.confirm > 0 {
			err = errors.Join(err, g.confirm.forget(ctx, g)) // nothing was stored: nothing is to be undone
		}
		return 0, nil, err
	}
	g.reload()
	return stored, changes, nil
}

func (g *Gateway) storeSpec(ctx context.Context, base uint64, candidate *vpc.Spec, changes []vpc.Change, a audit) (uint64, error) {
	summary := a.summary
	if summary != "" {
		summary += ": "
	}
	summary += summarize(changes)
	revision, err := g.store.Commit(ctx, base, candidate, store.Audit{Who: a.user, Verb: a.verb, Summary: summary, Changes: changes})
	if diskRemedy(err) != "" {
		g.leases.StoreTried(err) // the next lease would meet the same
	}
	if errors.Is(err, store.ErrConflict) {
		return 0, api.Errorf(api.CodeConflict, "somebody else changed the state at the same time: try again")
	}
	if err != nil {
		return 0, fmt.Errorf("store the change: %w", err)
	}
	g.log.Info("stored", "revision", revision, "user", a.user, "verb", a.verb, "changes", summary)
	return revision, nil
}

// summarize counts changes: "2 created, 1 changed".
func summarize(changes []vpc.Change) string {
	count := map[vpc.Action]int{}
	for _, c := range changes {
		count[c.Action]++
	}
	var parts []string
	for _, w := range []struct {
		action vpc.Action
		word   string
	}{{vpc.Create, "created"}, {vpc.Update, "changed"}, {vpc.Remove, "deleted"}} {
		if n := count[w.action]; n > 0 {
			parts = append(parts, strconv.Itoa(n)+" "+w.word)
		}
	}
	return strings.Join(parts, ", ")
}

func (g *Gateway) result(revision uint64, changes []vpc.Change) *api.ApplyResult {
	applied, _ := g.force.State()
	if changes == nil {
		changes = []vpc.Change{}
	}
	return &api.ApplyResult{Revision: revision, Applied: applied, Changes: changes}
}

// parseFiles reads manifests as one. When a file is no YAML at all the manifest is nil and the error says so; anything else
// that is wrong is kept in the manifest and comes out with what is wrong with its meaning (candidate).
func parseFiles(files []api.File) (*configs.Manifest, error) {
	var parts []*configs.Manifest
	var details []api.Detail
	for _, f := range files {
		m, err := configs.ParseManifest(f.Name, f.Content)
		if m == nil {
			details = append(details, findings(err)...)
			continue
		}
		parts = append(parts, m)
	}
	if len(details) > 0 {
		return nil, refused(details)
	}
	m, _ := configs.Join(parts...) // its findings come out of Report
	return m, nil
}

// candidate is the state that a manifest asks for; the error holds everything that is wrong with the manifest.
func (g *Gateway) candidate(ctx context.Context, current *vpc.Spec, m *configs.Manifest, prune bool) (*vpc.Spec, error) {
	opt, host := g.applyOptions(prune), g.host()
	opt.Valid = g.valid.on(host)
	spec, problems := vpc.Apply(current, m.Spec, host, opt)
	if spec != nil {
		g.valid = validity{spec, host}
	}
	if err := m.Report(problems); err != nil {
		return nil, refused(findings(err))
	}
	return spec, located(g.check(ctx, current, spec), m)
}

// validity says that a state is valid on a host.
type validity struct {
	spec *vpc.Spec
	host vpc.Host
}

// on returns the state if it is valid on the host, else nil.
func (v validity) on(h vpc.Host) *vpc.Spec {
	if v.spec == nil || !reflect.DeepEqual(v.host, h) {
		return nil
	}
	return v.spec
}

// located gives the details of a refusal the places in the manifest that they are about. Tests that the manifest does not
// hold are those that were stored before.
func located(err error, m *configs.Manifest) error {
	var e *api.Error
	if !errors.As(err, &e) {
		return err
	}
	for i := range e.Details {
		d := &e.Details[i]
		if m.Spec.Tests == nil && strings.HasPrefix(d.Path, "tests[") {
			continue
		}
		at := m.Locate(d.Path)
		d.File, d.Line = at.File, at.Line
	}
	return err
}

// check refuses a valid state that this host cannot carry, or that breaks a test kept with the policy.
func (g *Gateway) check(ctx context.Context, current, spec *vpc.Spec) error {
	if spec == current {
		return nil
	}
	before := g.stored.Load()
	s := before.Next(spec, g.host(), 0)
	g.draft = s
	if otherLinks(vpc.Compare(before, s)) {
		if _, err := g.links.Check(ctx, s); err != nil {
			if details := newRefusals(err, current); len(details) > 0 {
				return refused(details)
			}
		}
	}
	if details := cutOff(before, s); len(details) > 0 {
		return refused(details)
	}
	if details := untranslatable(s, g.features); len(details) > 0 {
		return refused(details)
	}
	return checkTests(s)
}

// untranslatable names the VPCs whose prefix translations this kernel cannot carry out.
func untranslatable(s *vpc.Snapshot, f firewall.Features) []api.Detail {
	var out []api.Detail
	for _, v := range s.VPCs {
		if len(v.IPv6PrefixTranslations) > 0 && !f.Netmap {
			out = append(out, api.Detail{Path: "vpcs[" + v.Name + "].ipv6PrefixTranslations",
				Message: "this kernel has no NETMAP in the IPv6 table nat (CONFIG_NETFILTER_XT_TARGET_NETMAP, CONFIG_IP6_NF_NAT)"})
		}
	}
	return out
}

// cutOff names who is connected to this host at what becomes a gateway address, over a link that a vSwitch takes over, and is no
// instance there: nothing of what it sends would pass any more.
func cutOff(before, s *vpc.Snapshot) []api.Detail {
	taken := func(a netip.Addr) *vpc.VSwitch {
		if w := s.GatewayOf(a); w != nil && w.HasLink() && before.GatewayOf(a) == nil {
			return w
		}
		return nil
	}
	if !slices.ContainsFunc(s.VSwitches, func(w *vpc.VSwitch) bool {
		return taken(w.GatewayAddr(vpc.IPv4)) != nil || taken(w.GatewayAddr(vpc.IPv6)) != nil
	}) {
		return nil
	}
	sessions, err := survey.Sessions("/")
	if err != nil {
		return nil // without the list nobody can be named
	}
	var out []api.Detail
	for _, c := range sessions {
		if w := taken(c.Local.Addr()); w != nil && w.Contains(c.Peer.Addr()) && s.InterfaceByAddr(c.Peer.Addr()) == nil {
			out = append(out, api.Detail{
				Path: "vpcs[" + w.VPC.Name + "].vswitches[" + w.Name + "]",
				Message: fmt.Sprintf("%s is connected to port %d of this host over %s, and no instance has that address: it would be cut off: declare it, or end that connection",
					c.Peer.Addr(), c.Local.Port(), w.LinkName()),
			})
		}
	}
	return out
}

// otherLinks reports whether a change may be one that the host's links refuse: what is refused are ranges of VPCs and what
// vSwitches are attached to.
func otherLinks(d *vpc.Delta) bool { return d.Host || len(d.VPCs)+len(d.VSwitches) > 0 }

// newRefusals are the refusals of what the change brings. What the host has come to refuse since it was stored is a
// problem of health, and no reason to refuse the change of something else.
func newRefusals(err error, current *vpc.Spec) []api.Detail {
	stored := map[string]bool{}
	for o := range current.Objects(vpc.KindVPC) {
		stored[o.Name+"/"] = true
	}
	for o := range current.Objects(vpc.KindVSwitch) {
		stored[o.VPC.Name+"/"+o.Name] = true
	}
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	var details []api.Detail
	for _, e := range all {
		var r *link.RefusedError
		switch {
		case !errors.As(e, &r):
			details = append(details, api.Detail{Message: e.Error()})
		case stored[r.VPC+"/"+r.VSwitch]:
		case r.VSwitch == "":
			details = append(details, api.Detail{Path: "vpcs[" + r.VPC + "]", Message: r.Reason})
		default:
			details = append(details, api.Detail{Path: "vpcs[" + r.VPC + "].vswitches[" + r.VSwitch + "]", Message: r.Reason})
		}
	}
	return details
}

// findings gives what a reader of files found as the API's details.
func findings(err error) []api.Detail {
	var bad *configs.Error
	if !errors.As(err, &bad) {
		return []api.Detail{{Message: err.Error()}}
	}
	var out []api.Detail
	for _, f := range bad.Findings {
		out = append(out, api.Detail{File: f.File, Line: f.Line, Path: f.Path, Message: f.Message})
	}
	return out
}

// refused is the API's error for a change that breaks rules.
func refused(details []api.Detail) *api.Error {
	return &api.Error{Code: api.CodeInvalid, Message: "the change is refused", Details: details}
}

// refusedProblems is refused for problems of a state that did not come from a file.
func refusedProblems(problems vpc.Problems) *api.Error {
	details := make([]api.Detail, len(problems))
	for i, p := range problems {
		details[i] = api.Detail{Path: p.Path, Message: p.Message}
	}
	return refused(details)
}

// checkTests refuses a candidate that breaks an assertion kept with the policy.
func checkTests(s *vpc.Snapshot) error {
	var details []api.Detail
	for i, t := range s.Spec.Tests {
		r, err := evaluateTest(s, t)
		path := fmt.Sprintf("tests[%d]", i)
		if err != nil {
			details = append(details, api.Detail{Path: path, Message: err.Error()})
		} else if !r.OK {
			details = append(details, api.Detail{Path: path, Message: fmt.Sprintf("%s -> %s %s: expected %s, but the change makes it %s (%s)",
				r.From, r.To, serviceName(r.Protocol, r.Port), r.Expect, r.Got, r.Decided)})
		}
	}
	if len(details) > 0 {
		return &api.Error{Code: api.CodeTestFailed, Message: "the change breaks tests kept with the policy", Details: details}
	}
	return nil
}

// Export writes the whole desired state as a manifest.
func (g *Gateway) Export(context.Context) ([]byte, error) {
	spec, _ := g.store.State()
	return configs.EncodeManifest(spec)
}

// Put creates, replaces or patches one object: it becomes a manifest of that object alone, and goes the way of Apply.
func (g *Gateway) Put(ctx context.Context, r api.PutRequest) (*api.ApplyResult, error) {
	var fields map[string]any
	if err := json.Unmarshal(r.Body, &fields); err != nil {
		return nil, api.Errorf(api.CodeInvalid, "read the object: %v", err)
	}
	verb := "set"
	if r.Create {
		verb = "create"
	}
	options := editOptions{ifMatch: r.IfMatch, noWait: r.NoWait, timeout: r.Timeout}
	return g.edit(ctx, audit{user: r.User, verb: verb}, options, func(current *vpc.Spec, _ uint64) (*vpc.Spec, string, error) {
		candidate, err := g.putCandidate(ctx, current, r, fields)
		return candidate, string(r.Kind) + " " + r.Name, withoutFile(err)
	})
}

// putCandidate is the state with one object as it was sent.
func (g *Gateway) putCandidate(ctx context.Context, current *vpc.Spec, r api.PutRequest, fields map[string]any) (*vpc.Spec, error) {
	tree, err := objectManifest(current, r, fields)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(tree)
	if err != nil {
		return nil, fmt.Errorf("write the object: %w", err)
	}
	manifest, err := parseFiles([]api.File{{Content: text}})
	if manifest == nil {
		return nil, err
	}
	return g.candidate(ctx, current, manifest, false)
}

// withoutFile drops files and lines that the user never saw.
func withoutFile(err error) error {
	var e *api.Error
	if errors.As(err, &e) {
		for i := range e.Details {
			e.Details[i].File, e.Details[i].Line = "", 0
		}
	}
	return err
}

// Delete removes one object, unless something still uses it.
func (g *Gateway) Delete(ctx context.Context, r api.DeleteRequest) (*api.ApplyResult, error) {
	options := editOptions{ifMatch: r.IfMatch, noWait: r.NoWait, timeout: r.Timeout}
	return g.edit(ctx, audit{user: r.User, verb: "delete"}, options, func(current *vpc.Spec, _ uint64) (*vpc.Spec, string, error) {
		vpcName, name := splitName(r.VPC, r.Name)
		candidate, problems := vpc.Delete(current, g.host(), r.Kind, vpcName, name)
		if len(problems) > 0 {
			return nil, "", refusedProblems(problems)
		}
		return candidate, string(r.Kind) + " " + r.Name, g.check(ctx, current, candidate)
	})
}

// splitName reads VPC/NAME; a VPC given apart goes before.
func splitName(vpcName, name string) (string, string) {
	if v, n, ok := strings.Cut(name, "/"); ok && vpcName == "" {
		return v, n
	}
	return vpcName, name
}

// Events gives the audit log, oldest first: from a revision on, or with 0 the newest entries.
func (g *Gateway) Events(_ context.Context, from uint64, max int) ([]api.Event, error) {
	if _, newest := g.store.State(); from == 0 && newest > uint64(max) {
		from = newest - uint64(max) + 1
	}
	stored, err := g.store.Events(from, max)
	if err != nil {
		return nil, err
	}
	events := make([]api.Event, len(stored))
	for i, e := range stored {
		events[i] = api.Event{Revision: e.Revision, Time: e.Time, User: e.Who, Verb: e.Verb, Summary: e.Summary}
		if len(e.Changes) > 0 {
			if err := json.Unmarshal(e.Changes, &events[i].Changes); err != nil {
				return nil, fmt.Errorf("read the audit log of revision %d: %w", e.Revision, err)
			}
		}
	}
	return events, nil
}
