package dhcp4

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse/vpc"
)

// archBIOS is the client architecture of a PC without UEFI (RFC 4578 section 2.1 with its errata).
const archBIOS = 0

// Vendor classes of network boot clients: PXE (RFC 4578), and UEFI HTTP boot, which wants its class echoed.
const (
	classPXE  = "PXEClient"
	classHTTP = "HTTPClient"
)

// pxeControl is option 43 for a PXE client: discovery control 8, take the file named here and look for no other server.
var pxeControl = []byte{6, 1, 8, 255}

// addBoot adds what a network boot needs, for clients that boot from the network or ask for it.
func (p *Reply) addBoot(r *Request, boot vpc.BootSpec) {
	class := string(r.options.get(dhcpv4.OptionClassIdentifier))
	pxe, http := strings.HasPrefix(class, classPXE), strings.HasPrefix(class, classHTTP)
	asks := r.wants(dhcpv4.OptionBootfileName.Code()) || r.wants(dhcpv4.OptionTFTPServerName.Code())
	if boot == (vpc.BootSpec{}) || !pxe && !http && !asks && !r.has(dhcpv4.OptionClientSystemArchitectureType) {
		return
	}
	file := bootFile(r, boot)
	if file == "" {
		return // nothing for such a machine
	}
	if http && !strings.Contains(file, "://") {
		file = "http://" + boot.Server + "/" + strings.TrimPrefix(file, "/")
	}
	if a, err := netip.ParseAddr(boot.Server); err == nil && a.Is4() {
		p.Next = a
	}
	if len(file) < fileSize {
		p.File = file // old boot ROMs look only there
	}
	switch {
	case pxe:
		p.may(dhcpv4.OptionClassIdentifier, []byte(classPXE))
		p.may(dhcpv4.OptionVendorSpecificInformation, pxeControl)
	case http:
		p.may(dhcpv4.OptionClassIdentifier, []byte(classHTTP))
	}
	if boot.Server != "" && len(boot.Server) <= 255 {
		p.may(dhcpv4.OptionTFTPServerName, []byte(boot.Server))
	}
	if len(file) <= 255 {
		p.may(dhcpv4.OptionBootfileName, []byte(file))
	}
}

// bootFile chooses by the client's architecture (option 93). A client that does not say is an old one.
func bootFile(r *Request, boot vpc.BootSpec) string {
	arch := r.options.get(dhcpv4.OptionClientSystemArchitectureType)
	switch {
	case len(arch) < 2 && boot.BIOSFile == "":
		return boot.File
	case len(arch) < 2 || binary.BigEndian.Uint16(arch) == archBIOS:
		return boot.BIOSFile
	}
	return boot.File
}
