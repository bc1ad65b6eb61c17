package dhcp4

import (
	"fmt"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse/server/dhcp"
)

// optionList are the options of a message, each once: the pieces of one that comes several times are one (RFC 3396). The
// library has a map for them; a list of the dozen that there are costs a fraction of its time.
type optionList []Option

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
	if old := o.find(code); old != nil {
		old.Data = append(old.Data, data...)
		return
	}
	*o = append(*o, Option{code, data})
}

func (o optionList) find(code uint8) *Option {
	for i := range o {
		if o[i].Code == code {
			return &o[i]
		}
	}
	return nil
}

// get returns the data of an option; nil when there is no such option.
func (o optionList) get(code dhcpv4.OptionCode) []byte {
	if found := o.find(code.Code()); found != nil {
		return found.Data
	}
	return nil
}

func (o optionList) has(code dhcpv4.OptionCode) bool { return o.find(code.Code()) != nil }
