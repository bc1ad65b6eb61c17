// Package configs reads what people write: the gateway's configuration (Config) and manifests (Manifest), both YAML, and
// writes a manifest back (EncodeManifest).
//
// Decoding is strict and complete: unknown and repeated keys, wrong types and impossible values are all reported at once,
// each with file, line and path, as an *Error. A scalar is read by the type of the field that it is for, from the text as
// it was written, so that 52:54:00:12:34:56, fd00::1, 0x10 and yes never turn into something else on the way.
//
// What is valid YAML but a bad network is not known here: vpc.Validate says so, and Manifest.Report gives its problems
// their lines.
package configs

import "embed"

// Embedded holds the reference configuration, gatehouse.yaml, and the manifests of examples/.
//
//go:embed gatehouse.yaml examples/*.yaml
var Embedded embed.FS
