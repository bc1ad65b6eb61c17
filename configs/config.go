package configs

import (
	"encoding/base64"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gatehouse/vpc"
)

// Config is what belongs to the host: /etc/gatehouse/gatehouse.yaml. Default says what an omitted key means.
type Config struct {
	StateDir         string       `json:"stateDir"` // holds state.db; absolute
	Region           string       `json:"region"`   // label in generated names: <region>.ecs.internal
	Uplinks          []string     `json:"uplinks"`  // links that lead outside; none: an isolated lab
	API              API          `json:"api"`
	Metrics          Metrics      `json:"metrics"`
	DNS              DNS          `json:"dns"`
	Firewall         Firewall     `json:"firewall"`
	HostAccess       []HostAccess `json:"hostAccess"`       // what instances may reach on the gateway besides DHCP, DNS and echo
	EnrollmentExpiry vpc.Duration `json:"enrollmentExpiry"` // an enrolled instance not seen for so long is removed
	Log              Log          `json:"log"`
	Manifest         string       `json:"manifest"` // a manifest applied once, when the store is empty; absolute, or none
}

// API is where the daemon answers.
type API struct {
	Socket string `json:"socket"` // Unix socket; absolute
	Listen Listen `json:"listen"` // HTTPS with bearer tokens; empty: socket only
}

// Metrics is where the daemon is watched.
type Metrics struct {
	Listen Listen `json:"listen"` // /metrics, /healthz, /readyz; empty: on the API's socket only
}

// DNS is what the name server needs to know besides the network.
type DNS struct {
	Upstreams []Upstream `json:"upstreams"` // asked in this order; none: other people's names do not resolve
	Parallel  bool       `json:"parallel"`  // all at once instead, and the first answer counts; those of forwarders too
	CacheSize int        `json:"cacheSize"` // entries; 0: no cache
	RateLimit int        `json:"rateLimit"` // answers a second that an instance is given over UDP, more only over TCP; 0: no limit
	QueryLog  []string   `json:"queryLog"`  // names of VPCs whose questions are logged
	TSIGKeys  []TSIGKey  `json:"tsigKeys"`  // keys that zones name in updateKeys
}

// TSIGKey is a shared secret that signs DNS messages (RFC 8945).
type TSIGKey struct {
	Name      string        `json:"name"` // a domain name
	Algorithm TSIGAlgorithm `json:"algorithm"`
	Secret    string        `json:"secret"` // base64
}

// SetDefaults fills in what an omitted key means.
func (k *TSIGKey) SetDefaults() { k.Algorithm = "hmac-sha256" }

// TSIGAlgorithm is one of the algorithms of RFC 8945 section 6 that is still to be used.
type TSIGAlgorithm string

// Backend says which iptables is used.
type Backend string

// The backends.
const (
	BackendAuto   Backend = "auto" // nft unless the host already uses legacy
	BackendNFT    Backend = "nft"
	BackendLegacy Backend = "legacy"
)

// Firewall is how rules get into the kernel.
type Firewall struct {
	Backend        Backend      `json:"backend"`
	VerifyInterval vpc.Duration `json:"verifyInterval"` // how often everything in the kernel is read back
	MarkMask       Mask         `json:"markMask"`       // bits of the packet mark that are ours; contiguous
}

// Log is what goes to standard error.
type Log struct {
	Level  LogLevel  `json:"level"`
	Format LogFormat `json:"format"`
}

// LogLevel is the least that is logged.
type LogLevel string

// LogFormat is the form of a log line.
type LogFormat string

// The levels and formats of log lines.
const (
	LevelDebug LogLevel  = "debug"
	LevelInfo  LogLevel  = "info"
	LevelWarn  LogLevel  = "warn"
	LevelError LogLevel  = "error"
	FormatText LogFormat = "text"
	FormatJSON LogFormat = "json"
)

// Default returns the configuration that an empty file means; configs/gatehouse.yaml says the same.
func Default() *Config {
	c := &Config{}
	c.SetDefaults()
	return c
}

// SetDefaults fills in what an omitted key means.
func (c *Config) SetDefaults() {
	*c = Config{
		StateDir:         "/var/lib/gatehouse",
		Region:           "lab-1",
		API:              API{Socket: "/run/gatehouse/api.sock"},
		DNS:              DNS{Upstreams: []Upstream{{System: true}}, CacheSize: 100_000},
		Firewall:         Firewall{Backend: BackendAuto, VerifyInterval: vpc.Duration(30 * time.Second), MarkMask: 0xffff0000},
		EnrollmentExpiry: vpc.Duration(30 * 24 * time.Hour),
		Log:              Log{Level: LevelInfo, Format: FormatText},
	}
}

// Host returns the part of the configuration that the policy depends on.
func (c *Config) Host() vpc.Host {
	h := vpc.Host{Region: c.Region, Uplinks: slices.Clone(c.Uplinks)}
	for _, a := range c.HostAccess {
		h.HostAccess = append(h.HostAccess, vpc.HostAccess(a))
	}
	return h
}

// StateFile returns the path of the store's file.
func (c *Config) StateFile() string { return filepath.Join(c.StateDir, "state.db") }

// Load reads a configuration file.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return ParseConfig(path, data)
}

// ParseConfig reads a configuration; name is what messages call the file. The error is an *Error with everything that is
// wrong. An empty file is the default configuration.
func ParseConfig(name string, data []byte) (*Config, error) {
	roots, err := parse(name, data, maxConfig)
	if err != nil {
		return nil, err
	}
	c := Default()
	if len(roots) == 0 {
		return c, nil
	}
	d := &decoder{file: name}
	if len(roots) > 1 {
		d.add(roots[1], "", "a configuration is one document: remove the --- before this line")
	}
	decodeRoot(d, roots[0], c)
	if d.stopped {
		return nil, errorOf(d.findings)
	}
	ps := c.validate()
	findings := append(d.findings, locate(name, roots[0], ps, d.findings)...)
	if err := errorOf(findings); err != nil {
		return nil, err
	}
	return c, nil
}

// maxUnixPath is what a sockaddr_un holds (unix(7)), without the final zero.
const maxUnixPath = 107

// minMarkBits are needed for the profile of the source, one of the destination at a time, and the decision bits.
const minMarkBits = 8

func (c *Config) validate() vpc.Problems {
	var ps vpc.Problems
	absolute := func(path, value string) {
		if !filepath.IsAbs(value) {
			ps.Add(path, "%q is not an absolute path", value)
		} else if strings.ContainsRune(value, 0) {
			ps.Add(path, "%q holds a zero byte", value)
		}
	}
	absolute("stateDir", c.StateDir)
	absolute("api.socket", c.API.Socket)
	if len(c.API.Socket) > maxUnixPath {
		ps.Add("api.socket", "has %d bytes; the path of a Unix socket has at most %d", len(c.API.Socket), maxUnixPath)
	}
	if c.Manifest != "" {
		absolute("manifest", c.Manifest)
	}
	if !isLabel(c.Region) || c.Region != strings.ToLower(c.Region) {
		ps.Add("region", "%q cannot be part of a name: use lower-case letters, digits and inner hyphens, at most 63", c.Region)
	}
	c.validateUplinks(&ps)
	if c.API.Listen != "" && c.API.Listen == c.Metrics.Listen {
		ps.Add("metrics.listen", "%s is api.listen already: choose another port", c.Metrics.Listen)
	}
	c.DNS.validate(&ps)
	c.Firewall.validate(&ps)
	if d := time.Duration(c.EnrollmentExpiry); d < time.Minute || d > maxSpan {
		ps.Add("enrollmentExpiry", "%s is not between 1m and 7300d", c.EnrollmentExpiry)
	}
	oneOf(&ps, "log.level", c.Log.Level, LevelDebug, LevelInfo, LevelWarn, LevelError)
	oneOf(&ps, "log.format", c.Log.Format, FormatText, FormatJSON)
	return ps
}

// maxSpan is the longest time span that is accepted anywhere: twenty years.
const maxSpan = 7300 * 24 * time.Hour

func (c *Config) validateUplinks(ps *vpc.Problems) {
	for i, name := range c.Uplinks {
		path := fmt.Sprintf("uplinks[%d]", i)
		switch {
		case !isLinkName(name):
			ps.Add(path, "%q is not the name of a link (1 to 15 characters, no slash, colon or space)", name)
		case name == "lo":
			ps.Add(path, "lo leads nowhere: name the links that lead outside, or none")
		case slices.Contains(c.Uplinks[:i], name):
			ps.Add(path, "%s is listed twice", name)
		}
	}
}

// isLinkName follows the kernel's dev_valid_name.
func isLinkName(s string) bool {
	const ifnamsiz = 16
	return s != "" && len(s) < ifnamsiz && s != "." && s != ".." && !strings.ContainsFunc(s, func(r rune) bool {
		return r == '/' || r == ':' || r <= ' ' || r == 0x7f
	})
}

func (d *DNS) validate(ps *vpc.Problems) {
	const maxCache = 10_000_000
	if d.CacheSize < 0 || d.CacheSize > maxCache {
		ps.Add("dns.cacheSize", "%d is not between 0 (no cache) and %d", d.CacheSize, maxCache)
	}
	if d.RateLimit < 0 {
		ps.Add("dns.rateLimit", "%d is negative: 0 means no limit", d.RateLimit)
	}
	for i, u := range d.Upstreams {
		path := fmt.Sprintf("dns.upstreams[%d]", i)
		switch a := u.Addr.Addr(); {
		case slices.Contains(d.Upstreams[:i], u):
			ps.Add(path, "%s is listed twice", u)
		case !u.System && (a.IsUnspecified() || a.IsMulticast()):
			ps.Add(path, "%s is not the address of a resolver", a)
		}
	}
	for _, k := range d.TSIGKeys {
		path := fmt.Sprintf("dns.tsigKeys[%s]", k.Name)
		if !isHostName(strings.TrimSuffix(k.Name, ".")) {
			ps.Add(path+".name", "%q is not a name that a key can have: letters, digits, hyphens and dots", k.Name)
		}
		oneOf(ps, path+".algorithm", k.Algorithm, "hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha224", "hmac-sha1")
		secret, err := base64.StdEncoding.DecodeString(k.Secret)
		const minSecret = 16
		switch {
		case k.Secret == "":
			ps.Add(path+".secret", "is missing: write the key in base64 (as from: openssl rand -base64 32)")
		case err != nil:
			ps.Add(path+".secret", "is not base64")
		case len(secret) < minSecret:
			ps.Add(path+".secret", "has %d bytes: at least %d are needed", len(secret), minSecret)
		}
	}
}

func (f *Firewall) validate(ps *vpc.Problems) {
	oneOf(ps, "firewall.backend", f.Backend, BackendAuto, BackendNFT, BackendLegacy)
	if d := time.Duration(f.VerifyInterval); d < time.Second || d > 24*time.Hour {
		ps.Add("firewall.verifyInterval", "%s is not between 1s and 24h", f.VerifyInterval)
	}
	mask := uint32(f.MarkMask)
	ones := bits.OnesCount32(mask)
	switch {
	case ones < minMarkBits:
		ps.Add("firewall.markMask", "%#x has %d bits set: at least %d are needed", mask, ones, minMarkBits)
	case bits.Len32(mask)-bits.TrailingZeros32(mask) != ones:
		ps.Add("firewall.markMask", "%#x has gaps: the bits must be next to each other, as in 0xffff0000", mask)
	}
}

// oneOf checks an enumeration.
func oneOf[T ~string](ps *vpc.Problems, path string, v T, allowed ...T) {
	if slices.Contains(allowed, v) {
		return
	}
	names := make([]string, len(allowed))
	for i, a := range allowed {
		names[i] = string(a)
	}
	ps.Add(path, "%q is not one of %s%s", string(v), strings.Join(names, ", "), suggestion(string(v), names))
}
