package server

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gatehouse/server/api"
	"gatehouse/server/dhcp4"
	"gatehouse/server/port"
	"gatehouse/server/survey"
	"gatehouse/vpc"
)

// Links that are not the gateway's alone are asked for other DHCP servers at start, and then now and again; between that, such
// servers are heard.
const (
	listenFor   = 2 * time.Second  // how long another server may take to answer
	askEvery    = 10 * time.Minute // each link
	askAgain    = 10 * time.Second // a link on which a server is known: it may be gone
	askPause    = 5 * time.Second  // between looking whether a link is to be asked
	heardLately = time.Hour        // how long a server is remembered that answers others, but not us
)

// rival is another DHCP server on a link where guests are.
type rival struct {
	link   string
	server netip.Addr
}

// rivals are the other DHCP servers that are known. Its methods may be called from any goroutine.
type rivals struct {
	now  func() time.Time
	ask  func(ctx context.Context, link string, wait time.Duration) ([]netip.Addr, error)
	news chan struct{} // one slot: a server came or went

	mu    sync.Mutex
	known map[rival]sighting
	asked map[string]time.Time // by link
}

type sighting struct {
	last    time.Time
	answers bool // it has answered us, so when it no longer does it is gone
}

func newRivals(now func() time.Time) *rivals {
	return &rivals{now: now, ask: dhcp4.Rivals, news: make(chan struct{}, 1), known: map[rival]sighting{}, asked: map[string]time.Time{}}
}

// heard takes note of a server that answers somebody.
func (r *rivals) heard(who rival) {
	r.mu.Lock()
	defer r.mu.Unlock()
	was, known := r.known[who]
	r.known[who] = sighting{r.now(), was.answers}
	if !known {
		r.tell()
	}
}

func (r *rivals) tell() {
	select {
	case r.news <- struct{}{}:
	default: // told already
	}
}

// look asks links, all at once, and returns what could not be asked.
func (r *rivals) look(ctx context.Context, links []string) []error {
	var mu sync.Mutex
	var errs []error
	var asking sync.WaitGroup
	for _, link := range links {
		asking.Go(func() {
			found, err := r.ask(ctx, link, listenFor)
			if ctx.Err() != nil {
				return // nobody had the time to answer
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
				return
			}
			r.answered(link, found)
		})
	}
	asking.Wait()
	return errs
}

// answered takes note of who has answered on a link that was asked.
func (r *rivals) answered(link string, found []netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	r.asked[link] = now
	for who, s := range r.known {
		if who.link == link && s.answers && !slices.Contains(found, who.server) {
			delete(r.known, who)
			r.tell()
		}
	}
	for _, server := range found {
		who := rival{link, server}
		if _, known := r.known[who]; !known {
			r.tell()
		}
		r.known[who] = sighting{now, true}
	}
}

// due returns which of the links are to be asked now, and forgets what is of other links or too old.
func (r *rivals) due(links []string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	wait := map[string]time.Duration{}
	for _, l := range links {
		wait[l] = askEvery
	}
	for who, s := range r.known {
		if !slices.Contains(links, who.link) || now.Sub(s.last) > heardLately {
			delete(r.known, who)
			r.tell()
			continue
		}
		wait[who.link] = askAgain
	}
	for l := range r.asked {
		if !slices.Contains(links, l) {
			delete(r.asked, l)
		}
	}
	return slices.DeleteFunc(slices.Clone(links), func(l string) bool {
		last, ok := r.asked[l]
		return ok && now.Sub(last) < wait[l]
	})
}

// findings lists the servers that are known.
func (r *rivals) findings() []survey.Finding {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []rival
	for who := range r.known {
		all = append(all, who)
	}
	slices.SortFunc(all, func(a, b rival) int { return cmp.Or(cmp.Compare(a.link, b.link), a.server.Compare(b.server)) })
	var out []survey.Finding
	for _, who := range all {
		out = append(out, survey.Rival(who.link, who.server))
	}
	return out
}

// problems is findings as the daemon's health has them.
func (r *rivals) problems() []api.Problem {
	var out []api.Problem
	for _, f := range r.findings() {
		out = append(out, api.Problem{Code: f.Code, Message: f.Message, Remedy: f.Remedy})
	}
	return out
}

// sharedLinks are the links of the vSwitches on which there may be a DHCP server that nobody on this host has started: those that
// are not the gateway's alone.
func sharedLinks(s *vpc.Snapshot) []string {
	var out []string
	for _, w := range s.VSwitches {
		if w.Attach.Interface != "" && w.Prefix(vpc.IPv4).IsValid() {
			out = append(out, w.LinkName())
		}
	}
	return out
}

// hearRival takes note of a DHCP server that was heard, unless it is this one.
func (g *Gateway) hearRival(at port.Port, server netip.Addr) {
	if w := g.stored.Load().VSwitchByID(at.VSwitch); w != nil && server != w.GatewayAddr(vpc.IPv4) {
		g.rivals.heard(rival{at.Name, server})
	}
}

// runRivals asks for other DHCP servers, once the daemon serves, until ctx ends.
func (g *Gateway) runRivals(ctx context.Context) error {
	tick := time.NewTicker(askPause)
	defer tick.Stop()
	for {
		if s := g.inUse.Load(); s != nil {
			// A link that is not there is a finding of the links, and is asked when it is.
			for _, err := range g.rivals.look(ctx, g.rivals.due(sharedLinks(s))) {
				g.log.Debug("look for other DHCP servers", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
