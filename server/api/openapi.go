package api

import _ "embed"

//go:embed openapi.json
var openAPI []byte

// OpenAPI returns the description of the API, as /v1/openapi.json serves it.
func OpenAPI() []byte { return openAPI }
