package configs

import _ "embed"

//go:embed gatehouse.yaml
var shipped string

// Shipped returns the configuration file that an installation puts in place: every key with its default, explained.
func Shipped() string { return shipped }
