// Package api is the daemon's HTTP interface: the types that cross it, the server on the Unix socket, and the client that
// every verb of the command line uses. It decides nothing; a Backend does.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"gatehouse/vpc"
)

// maxBody bounds a request: a manifest of ten thousand instances is about 5 MiB.
const maxBody = 64 << 20

// Backend is what the daemon does for its clients. Errors that are an *Error reach the client as they are.
type Backend interface {
	Apply(ctx context.Context, r ApplyRequest) (*ApplyResult, error)
	Confirm(ctx context.Context) error
	Rollback(ctx context.Context, revision uint64, user string) (*ApplyResult, error)
	Export(ctx context.Context) ([]byte, error)
	Objects(ctx context.Context, kind vpc.Kind, vpcName string, names []string) ([]Object, error)
	Put(ctx context.Context, r PutRequest) (*ApplyResult, error)
	Delete(ctx context.Context, r DeleteRequest) (*ApplyResult, error)
	Describe(ctx context.Context, kind vpc.Kind, vpcName, name string) (*Description, error)
	Explain(ctx context.Context, r ExplainRequest) (*Explanation, error)
	DNSQuery(ctx context.Context, vpcName, name, typ string) (*DNSAnswer, error)
	DNSFlush(ctx context.Context, name string) (int, error)
	Test(ctx context.Context, files []File) ([]TestResult, error)
	Status(ctx context.Context) (*Status, error)
	Doctor(ctx context.Context) ([]Finding, error)
	Events(ctx context.Context, from uint64, max int) ([]Event, error)
	Flows(ctx context.Context) ([]Flow, error)
	FollowFlows() (flows <-chan Flow, stop func())
	FirewallRender(ctx context.Context) (string, error)
	FirewallVerify(ctx context.Context) ([]string, error)
	FirewallResync(ctx context.Context) error
	FirewallCounters(ctx context.Context) ([]RuleCounter, error)
	Teardown(ctx context.Context) error
	Backup(ctx context.Context, w io.Writer) error
	Ready() bool
}

// NewHandler serves a Backend. Metrics may be nil.
func NewHandler(b Backend, metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/apply", answer(func(r *http.Request) (any, error) {
		var req ApplyRequest
		if err := decode(r, &req); err != nil {
			return nil, err
		}
		req.User = userOf(r, req.User)
		return b.Apply(r.Context(), req)
	}))
	mux.HandleFunc("POST /v1/plan", answer(func(r *http.Request) (any, error) {
		var req ApplyRequest
		if err := decode(r, &req); err != nil {
			return nil, err
		}
		req.DryRun = true
		return b.Apply(r.Context(), req)
	}))
	mux.HandleFunc("POST /v1/confirm", answer(func(r *http.Request) (any, error) {
		return struct{}{}, b.Confirm(r.Context())
	}))
	mux.HandleFunc("POST /v1/rollback", answer(func(r *http.Request) (any, error) {
		rev, err := number(r, "revision")
		if err != nil {
			return nil, err
		}
		return b.Rollback(r.Context(), rev, userOf(r, r.URL.Query().Get("user")))
	}))
	mux.HandleFunc("GET /v1/export", func(w http.ResponseWriter, r *http.Request) {
		text, err := b.Export(r.Context())
		if err != nil {
			writeError(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/yaml")
		w.Write(text)
	})
	mux.HandleFunc("POST /v1/explain", answer(func(r *http.Request) (any, error) {
		var req ExplainRequest
		if err := decode(r, &req); err != nil {
			return nil, err
		}
		return b.Explain(r.Context(), req)
	}))
	mux.HandleFunc("GET /v1/dns/query", answer(func(r *http.Request) (any, error) {
		q := r.URL.Query()
		typ := q.Get("type")
		if typ == "" {
			typ = "A"
		}
		return b.DNSQuery(r.Context(), q.Get("vpc"), q.Get("name"), typ)
	}))
	mux.HandleFunc("POST /v1/dns/flush", answer(func(r *http.Request) (any, error) {
		n, err := b.DNSFlush(r.Context(), r.URL.Query().Get("name"))
		return Flushed{n}, err
	}))
	mux.HandleFunc("POST /v1/test", answer(func(r *http.Request) (any, error) {
		var files []File
		if err := decode(r, &files); err != nil {
			return nil, err
		}
		return b.Test(r.Context(), files)
	}))
	mux.HandleFunc("GET /v1/status", answer(func(r *http.Request) (any, error) { return b.Status(r.Context()) }))
	mux.HandleFunc("GET /v1/doctor", answer(func(r *http.Request) (any, error) { return b.Doctor(r.Context()) }))
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) { serveEvents(w, r, b) })
	mux.HandleFunc("GET /v1/flows", func(w http.ResponseWriter, r *http.Request) { serveFlows(w, r, b) })
	mux.HandleFunc("GET /v1/firewall/render", func(w http.ResponseWriter, r *http.Request) {
		text, err := b.FirewallRender(r.Context())
		if err != nil {
			writeError(w, err)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		io.WriteString(w, text)
	})
	mux.HandleFunc("POST /v1/firewall/verify", answer(func(r *http.Request) (any, error) { return b.FirewallVerify(r.Context()) }))
	mux.HandleFunc("POST /v1/firewall/resync", answer(func(r *http.Request) (any, error) {
		return struct{}{}, b.FirewallResync(r.Context())
	}))
	mux.HandleFunc("GET /v1/firewall/counters", answer(func(r *http.Request) (any, error) { return b.FirewallCounters(r.Context()) }))
	mux.HandleFunc("POST /v1/teardown", answer(func(r *http.Request) (any, error) {
		return struct{}{}, b.Teardown(r.Context())
	}))
	mux.HandleFunc("GET /v1/backup", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		if err := b.Backup(r.Context(), w); err != nil {
			// Part of the copy may be out already: cutting the connection is the only way to say so.
			panic(http.ErrAbortHandler)
		}
	})
	mux.HandleFunc("GET /v1/{kind}", answer(func(r *http.Request) (any, error) {
		kind, err := kindOf(r)
		if err != nil {
			return nil, err
		}
		return b.Objects(r.Context(), kind, r.URL.Query().Get("vpc"), r.URL.Query()["name"])
	}))
	mux.HandleFunc("GET /v1/{kind}/{name...}", answer(func(r *http.Request) (any, error) {
		kind, err := kindOf(r)
		if err != nil {
			return nil, err
		}
		vpcName, name := r.URL.Query().Get("vpc"), r.PathValue("name")
		if r.URL.Query().Has("describe") {
			return b.Describe(r.Context(), kind, vpcName, name)
		}
		objects, err := b.Objects(r.Context(), kind, vpcName, []string{name})
		if err != nil {
			return nil, err
		}
		return objects[0], nil
	}))
	put := answer(func(r *http.Request) (any, error) {
		kind, err := kindOf(r)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
		if err != nil {
			return nil, Errorf(CodeInvalid, "read the request: %v", err)
		}
		q := r.URL.Query()
		req := PutRequest{
			Kind: kind, VPC: q.Get("vpc"), Name: r.PathValue("name"), Body: body,
			Patch: r.Method == http.MethodPatch, Create: r.Method == http.MethodPost, User: userOf(r, q.Get("user")),
		}
		if req.NoWait, req.Timeout, err = waiting(r); err != nil {
			return nil, err
		}
		if req.IfMatch, err = ifMatch(r); err != nil {
			return nil, err
		}
		return b.Put(r.Context(), req)
	})
	mux.HandleFunc("POST /v1/{kind}/{name...}", put)
	mux.HandleFunc("PUT /v1/{kind}/{name...}", put)
	mux.HandleFunc("PATCH /v1/{kind}/{name...}", put)
	mux.HandleFunc("DELETE /v1/{kind}/{name...}", answer(func(r *http.Request) (any, error) {
		kind, err := kindOf(r)
		if err != nil {
			return nil, err
		}
		req := DeleteRequest{Kind: kind, VPC: r.URL.Query().Get("vpc"), Name: r.PathValue("name"), User: userOf(r, r.URL.Query().Get("user"))}
		if req.NoWait, req.Timeout, err = waiting(r); err != nil {
			return nil, err
		}
		if req.IfMatch, err = ifMatch(r); err != nil {
			return nil, err
		}
		return b.Delete(r.Context(), req)
	}))
	if metrics != nil {
		mux.Handle("GET /metrics", metrics)
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		s, err := b.Status(r.Context())
		if err != nil {
			writeError(w, err)
			return
		}
		if !s.Healthy {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		for _, p := range s.Problems {
			fmt.Fprintf(w, "%s: %s\n", p.Code, p.Message)
		}
		if s.Healthy {
			io.WriteString(w, "ok\n")
		}
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if !b.Ready() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, Errorf(CodeNotFound, "%s %s is not part of the API: see /v1/openapi.json", r.Method, r.URL.Path))
	})
	mux.HandleFunc("GET /v1/openapi.json", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(OpenAPI())
	})
	return mux
}

// answer turns a function into a handler that writes its result, or its error, as JSON.
func answer(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r)
		if err != nil {
			writeError(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if rev, ok := v.(*ApplyResult); ok {
			w.Header().Set("ETag", strconv.Quote(strconv.FormatUint(rev.Revision, 10)))
		}
		json.NewEncoder(w).Encode(v)
	}
}

func writeError(w http.ResponseWriter, err error) {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Code: CodeInternal, Message: err.Error()}
	}
	status := map[Code]int{
		CodeInvalid: http.StatusUnprocessableEntity, CodeNotFound: http.StatusNotFound, CodeConflict: http.StatusConflict,
		CodeTestFailed: http.StatusUnprocessableEntity, CodeNotInForce: http.StatusServiceUnavailable,
		CodeUnavailable: http.StatusServiceUnavailable,
	}[e.Code]
	if status == 0 {
		status = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(errorBody{e})
}

func decode(r *http.Request, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return Errorf(CodeInvalid, "read the request: %v", err)
	}
	return nil
}

func kindOf(r *http.Request) (vpc.Kind, error) {
	k, err := vpc.ParseKind(r.PathValue("kind"))
	if err != nil {
		return k, Errorf(CodeNotFound, "%v", err)
	}
	return k, nil
}

func number(r *http.Request, name string) (uint64, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, Errorf(CodeInvalid, "%s: %q is not a number", name, s)
	}
	return n, nil
}

// userKey is where a connection's user is kept in its context.
type userKey struct{}

// WithUser remembers who is at the other end of a connection, as the socket says.
func WithUser(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, userKey{}, name)
}

// userOf says who asks, for the audit log: whoever the socket names. Root may name somebody else, as sudo does.
func userOf(r *http.Request, claimed string) string {
	peer, _ := r.Context().Value(userKey{}).(string)
	claimed = strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return -1
	}, claimed)
	claimed = claimed[:min(len(claimed), maxUser)]
	if claimed != "" && (peer == "" || peer == "root") {
		return claimed
	}
	return peer
}

// maxUser bounds a user's name in bytes.
const maxUser = 64

// ifMatch reads the revision that a change was made from (RFC 9110 section 13.1.1); 0 when it does not matter.
func ifMatch(r *http.Request) (uint64, error) {
	tag := r.Header.Get("If-Match")
	if tag == "" || tag == "*" {
		return 0, nil
	}
	n, err := strconv.ParseUint(strings.Trim(tag, `"`), 10, 64)
	if err != nil || n == 0 {
		return 0, Errorf(CodeInvalid, "If-Match: %s is not the ETag of a revision", tag)
	}
	return n, nil
}

// waiting reads how long a change is waited for.
func waiting(r *http.Request) (noWait bool, timeout time.Duration, err error) {
	q := r.URL.Query()
	if t := q.Get("timeout"); t != "" {
		if timeout, err = time.ParseDuration(t); err != nil || timeout <= 0 {
			return false, 0, Errorf(CodeInvalid, "timeout: %q is not a duration (as in 60s)", t)
		}
	}
	return q.Get("noWait") == "true", timeout, nil
}

// serveEvents answers with the audit log as JSON, or follows it as server-sent events.
func serveEvents(w http.ResponseWriter, r *http.Request, b Backend) {
	from, err := number(r, "from")
	if err != nil {
		writeError(w, err)
		return
	}
	if r.URL.Query().Get("follow") != "true" {
		answer(func(r *http.Request) (any, error) { return b.Events(r.Context(), from, 1000) })(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w)
	for {
		events, err := b.Events(r.Context(), from, 100)
		if err != nil {
			return
		}
		for _, e := range events {
			body, err := json.Marshal(e)
			if err != nil {
				return
			}
			fmt.Fprintf(w, "id: %d\ndata: %s\n\n", e.Revision, body)
			from = e.Revision + 1
		}
		if flush.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// serveFlows answers with the newest refused flows as JSON, or follows them as server-sent events.
func serveFlows(w http.ResponseWriter, r *http.Request, b Backend) {
	if r.URL.Query().Get("follow") != "true" {
		answer(func(r *http.Request) (any, error) { return b.Flows(r.Context()) })(w, r)
		return
	}
	flows, stop := b.FollowFlows()
	defer stop()
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w)
	for {
		if flush.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case f := <-flows:
			body, err := json.Marshal(f)
			if err != nil {
				return
			}
			fmt.Fprintf(w, "data: %s\n\n", body)
		}
	}
}
