package lease

import "gatehouse/vpc"

// Pool says how much of a vSwitch's range is in use.
type Pool struct {
	VSwitch  string // ID
	Family   vpc.Family
	Size     float64 // addresses that may be given: the declared pool, or the range without what the cloud reserves
	Used     int     // of these, what interfaces have, secondaries included
	Bound    int     // leases by state
	Offered  int
	Declined int
}

// Pools returns the use of every vSwitch's ranges, by vSwitch ID, IPv4 first.
func (e *Engine) Pools() []Pool {
	s := e.snapshot.Load()
	if s == nil {
		return nil
	}
	pools := pools(s)
	type key struct {
		vswitch string
		family  vpc.Family
	}
	index := make(map[key]*Pool, len(pools))
	for i := range pools {
		index[key{pools[i].VSwitch, pools[i].Family}] = &pools[i]
	}
	for _, l := range e.Leases() {
		p := index[key{l.VSwitch, vpc.FamilyOf(l.Address)}]
		if p == nil {
			continue
		}
		switch l.State {
		case vpc.LeaseBound:
			p.Bound++
		case vpc.LeaseOffered:
			p.Offered++
		case vpc.LeaseDeclined:
			p.Declined++
		}
	}
	return pools
}

func pools(s *vpc.Snapshot) []Pool {
	var out []Pool
	for _, w := range s.VSwitches {
		for _, f := range vpc.Families() {
			if w.Prefix(f).IsValid() {
				out = append(out, PoolOf(w, f))
			}
		}
	}
	return out
}

// PoolOf returns how much of a vSwitch's range of a family, which it must have, is in use, without what leases say.
func PoolOf(w *vpc.VSwitch, f vpc.Family) Pool {
	p, prefix := Pool{VSwitch: w.ID, Family: f}, w.Prefix(f)
	in := prefix.Contains
	if f == vpc.IPv4 && !w.Pool.IsZero() {
		in = w.Pool.Contains
		p.Size = span(w.Pool)
	} else {
		p.Size = span(vpc.AddrRange{From: prefix.Addr(), To: vpc.LastAddr(prefix)}) - reserved(f)
	}
	for _, nic := range w.Interfaces {
		for a := range nic.Addrs {
			if vpc.FamilyOf(a) == f && in(a) {
				p.Used++
			}
		}
	}
	return p
}

// reserved is how many addresses of a range the cloud keeps for itself: the first and the last three of IPv4, the first
// and the last nine of IPv6.
func reserved(f vpc.Family) float64 {
	if f == vpc.IPv6 {
		return 10
	}
	return 4
}

// span counts the addresses of a range; a float because an IPv6 range holds more than an integer does.
func span(r vpc.AddrRange) float64 {
	from, to := r.From.AsSlice(), r.To.AsSlice()
	n := 0.0
	for i := range from {
		n = n*256 + float64(to[i]) - float64(from[i])
	}
	return n + 1
}

// warnFullPools names every pool that has become nearly used up, once until it has room again.
func (e *Engine) warnFullPools(s *vpc.Snapshot) {
	all := pools(s)
	e.mu.Lock()
	defer e.mu.Unlock()
	full := map[string]bool{}
	for _, p := range all {
		if float64(p.Used) < 0.9*p.Size {
			continue
		}
		k := p.VSwitch + " " + p.Family.String()
		full[k] = true
		if !e.full[k] {
			w := s.VSwitchByID(p.VSwitch)
			e.log.Warn("addresses are running out", "vswitch", p.VSwitch, "name", w.VPC.Name+"/"+w.Name, "family", p.Family, "used", p.Used, "of", p.Size)
		}
	}
	e.full = full
}
