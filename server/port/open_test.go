package port

import (
	"errors"
	"testing"

	"golang.org/x/net/bpf"

	"gatehouse/internal/netlab"
	"gatehouse/vpc"
)

func TestOpenFindsTheLinksOwnMAC(t *testing.T) {
	lab, err := netlab.New("portmac")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	space, err := lab.Space("host")
	if err == nil {
		_, err = space.Script(t.Context(), "ip link add p0 address 02:00:00:00:00:07 type bridge\nip link set p0 up\n")
	}
	if err != nil {
		t.Fatal(err)
	}
	nothing := []bpf.Instruction{bpf.RetConstant{Val: 0}}
	err = space.Do(func() error {
		index, err := Index("p0")
		if err != nil {
			return err
		}
		for given, want := range map[vpc.MAC]vpc.MAC{
			{}:                 {2, 0, 0, 0, 0, 7},
			{2, 0, 0, 0, 0, 9}: {2, 0, 0, 0, 0, 9}, // the bridge's, for one of its ports
		} {
			s, err := Open(Port{Index: index, Name: "p0", LinkMAC: given}, nothing)
			if err != nil {
				return err
			}
			if s.LinkMAC != want {
				t.Errorf("opened with %s: sends from %s, want %s", given, s.LinkMAC, want)
			}
			if err := s.Close(); err != nil {
				return err
			}
		}
		if s, err := Open(Port{Index: index + 1000, Name: "gone"}, nothing); err == nil {
			return errors.Join(errors.New("a link that is not there was opened"), s.Close())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
