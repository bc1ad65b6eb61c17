package dhcp4

import (
	"fmt"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse/server/dhcp"
)

// optionList are the options of a message, each once: the pieces of one that comes several times are one (RFC 3396). The
// library has a map for them; this one costs a fraction of its time, and every message that anybody sends is read.
type optionList struct {
	list []Option
	at   [256]uint8 // by code: where it stands in the list, from 1
}

// read adds the options of a field, and reports whether the field said where they end. Their data is part of b.
func (o *optionList) read(b []byte) (ended bool, err error) {
	for len(b) > 0 {
		switch b[0] {
		case dhcpv4.OptionPad.Code():
			b = b[1:]
			continue
		case dhcpv4.OptionEnd.Code():
			return true, nil
		}
		if len(b) < 2 || int(b[1]) > len(b)-2 {
			return false, fmt.Errorf("%w: option %d is cut off", dhcp.ErrMalformed, b[0])
		}
		n := 2 + int(b[1])
		o.add(b[0], b[2:n:n]) // nothing is ever appended in place
		b = b[n:]
	}
	return false, nil
}

func (o *optionList) add(code uint8, data []byte) {
	if i := o.at[code]; i > 0 {
		old := &o.list[i-1]
		old.Data = append(old.Data, data...)
		return
	}
	o.list = append(o.list, Option{code, data})
	o.at[code] = uint8(len(o.list)) // there are 254 codes: pad and end are none
}

// get returns the data of an option; nil when there is no such option.
func (o *optionList) get(code dhcpv4.OptionCode) []byte {
	if i := o.at[code.Code()]; i > 0 {
		return o.list[i-1].Data
	}
	return nil
}

func (o *optionList) has(code dhcpv4.OptionCode) bool { return o.at[code.Code()] > 0 }
