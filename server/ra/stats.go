package ra

import "sync/atomic"

// Stats are counters since the server was made.
type Stats struct {
	Routers    uint64 // router solicitations received
	Neighbors  uint64 // neighbour solicitations received
	Malformed  uint64 // frames that break RFC 4861
	Limited    uint64 // neighbour solicitations of a port that sends too many
	Advertised uint64 // router advertisements sent
	Answered   uint64 // neighbour advertisements sent
	Failed     uint64 // frames that could not be sent
	Ports      int    // that are served
}

type counters struct {
	routers, neighbors, malformed, limited, advertised, answered, failed atomic.Uint64
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	c := &s.count
	st := Stats{
		Routers: c.routers.Load(), Neighbors: c.neighbors.Load(), Malformed: c.malformed.Load(), Limited: c.limited.Load(),
		Advertised: c.advertised.Load(), Answered: c.answered.Load(), Failed: c.failed.Load(),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Ports = len(s.ports)
	return st
}
