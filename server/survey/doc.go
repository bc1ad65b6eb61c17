// Package survey looks at what else is on a host: its links, who holds the ports that a gateway needs, and software that
// has something to say about packets, links or addresses. It reads files of the kernel and of systemd, and changes nothing.
package survey
