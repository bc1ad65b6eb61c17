package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/vpc"
)

// fake answers every call with what it was made with, and remembers the last request.
type fake struct {
	Backend // calls that a test does not expect end in a nil dereference, and so in its failure
	err     error
	last    any
}

func (f *fake) Apply(_ context.Context, r ApplyRequest) (*ApplyResult, error) {
	f.last = r
	return &ApplyResult{Revision: 7, Applied: 7, Changes: []vpc.Change{}}, f.err
}

func (f *fake) Put(_ context.Context, r PutRequest) (*ApplyResult, error) {
	f.last = r
	return &ApplyResult{Revision: 8}, f.err
}

func (f *fake) Delete(_ context.Context, r DeleteRequest) (*ApplyResult, error) {
	f.last = r
	return &ApplyResult{Revision: 9}, f.err
}

func (f *fake) Objects(_ context.Context, kind vpc.Kind, vpcName string, names []string) ([]Object, error) {
	f.last = []any{kind, vpcName, names}
	return []Object{{Fields: map[string]any{"name": "web"}}}, f.err
}

func (f *fake) Status(context.Context) (*Status, error) {
	s := &Status{Healthy: f.err == nil}
	if f.err != nil {
		s.Problems = []Problem{{Code: "dns", Message: f.err.Error()}}
	}
	return s, nil
}

func (f *fake) Ready() bool { return f.err == nil }

// serve starts the handler on a Unix socket and gives a client for it.
func serve(t *testing.T, b Backend) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: NewHandler(b, nil)}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return NewClient(path)
}

func TestARefusalCrossesTheSocketWhole(t *testing.T) {
	want := &Error{Code: CodeInvalid, Message: "the change is refused", Details: []Detail{{File: "lab.yaml", Line: 3, Path: "vpcs[a].cidrBlock", Message: "overlaps"}}}
	c := serve(t, &fake{err: want})
	_, err := c.Apply(t.Context(), ApplyRequest{})
	var got *Error
	if !errors.As(err, &got) || got.Code != want.Code || len(got.Details) != 1 || got.Details[0] != want.Details[0] {
		t.Fatalf("got %#v", err)
	}
	if text := got.Error(); text != "lab.yaml: vpcs[a].cidrBlock: overlaps" {
		t.Errorf("as text: %q", text)
	}
}

func TestCodesBecomeHTTPStatuses(t *testing.T) {
	for code, status := range map[Code]int{
		CodeInvalid: 422, CodeNotFound: 404, CodeConflict: 409, CodeTestFailed: 422, CodeNotInForce: 503, CodeUnavailable: 503, CodeInternal: 500,
	} {
		w := httptest.NewRecorder()
		NewHandler(&fake{err: Errorf(code, "no")}, nil).ServeHTTP(w, httptest.NewRequest("POST", "/v1/apply", strings.NewReader(`{"files":[]}`)))
		if w.Code != status {
			t.Errorf("%s: status %d, want %d", code, w.Code, status)
		}
	}
	w := httptest.NewRecorder()
	NewHandler(&fake{err: errors.New("something else")}, nil).ServeHTTP(w, httptest.NewRequest("POST", "/v1/apply", strings.NewReader(`{}`)))
	if w.Code != 500 || !strings.Contains(w.Body.String(), `"code":"internal"`) {
		t.Errorf("an unclassified error: %d %s", w.Code, w.Body)
	}
}

func TestRequestsAreReadStrictly(t *testing.T) {
	for name, r := range map[string]struct {
		method, path, body string
		status             int
		says               string
	}{
		"a field that does not exist":     {"POST", "/v1/apply", `{"fils":[]}`, 422, "unknown field"},
		"a body that is not JSON":         {"POST", "/v1/apply", `vpcs: []`, 422, "read the request"},
		"a kind that does not exist":      {"GET", "/v1/gadgets", "", 404, "no kind"},
		"a path that does not exist":      {"GET", "/v2/status", "", 404, "is not part of the API"},
		"a timeout that is none":          {"DELETE", "/v1/vpc/a?timeout=soon", "", 422, "is not a duration"},
		"a timeout that lies in the past": {"DELETE", "/v1/vpc/a?timeout=-1s", "", 422, "is not a duration"},
		"a revision that is no number":    {"POST", "/v1/rollback?revision=last", "", 422, "is not a number"},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			NewHandler(&fake{}, nil).ServeHTTP(w, httptest.NewRequest(r.method, r.path, strings.NewReader(r.body)))
			if w.Code != r.status || !strings.Contains(w.Body.String(), r.says) {
				t.Errorf("%d %s; want %d and %q", w.Code, w.Body, r.status, r.says)
			}
		})
	}
}

func TestMethodsOnObjects(t *testing.T) {
	f := &fake{}
	c := serve(t, f)
	ctx := t.Context()
	if _, err := c.Put(ctx, PutRequest{Kind: vpc.KindVSwitch, VPC: "research", Name: "web", Create: true, Body: []byte("{}"), User: "eva"}); err != nil {
		t.Fatal(err)
	}
	if r := f.last.(PutRequest); !r.Create || r.Patch || r.VPC != "research" || r.Name != "web" || r.User != "eva" {
		t.Errorf("create arrived as %+v", r)
	}
	if _, err := c.Put(ctx, PutRequest{Kind: vpc.KindInstance, Name: "research/web-1", Patch: true, Body: []byte("{}"), NoWait: true}); err != nil {
		t.Fatal(err)
	}
	if r := f.last.(PutRequest); r.Create || !r.Patch || r.Name != "research/web-1" || !r.NoWait {
		t.Errorf("set arrived as %+v", r)
	}
	if _, err := c.Delete(ctx, DeleteRequest{Kind: vpc.KindZone, Name: "corp.example"}); err != nil {
		t.Fatal(err)
	}
	if r := f.last.(DeleteRequest); r.Kind != vpc.KindZone || r.Name != "corp.example" {
		t.Errorf("delete arrived as %+v", r)
	}
	objects, err := c.Objects(ctx, vpc.KindSecurityGroup, "research", []string{"web"})
	if err != nil || len(objects) != 1 || objects[0]["name"] != "web" {
		t.Errorf("get: %v, %v", objects, err)
	}
}

func TestAChangeCanBeTiedToARevision(t *testing.T) {
	for name, c := range map[string]struct {
		tag    string
		status int
		want   uint64
	}{
		"an ETag as it was given":   {`"7"`, 200, 7},
		"any revision":              {"*", 200, 0},
		"none":                      {"", 200, 0},
		"something that is no ETag": {"latest", 422, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{}
			r := httptest.NewRequest("PUT", "/v1/vswitch/web", strings.NewReader("{}"))
			r.Header.Set("If-Match", c.tag)
			w := httptest.NewRecorder()
			NewHandler(f, nil).ServeHTTP(w, r)
			if w.Code != c.status {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			if w.Code == 200 && f.last.(PutRequest).IfMatch != c.want {
				t.Errorf("revision %d, want %d", f.last.(PutRequest).IfMatch, c.want)
			}
		})
	}
}

func TestTheSocketSaysWhoAsks(t *testing.T) {
	for name, c := range map[string]struct{ peer, claimed, want string }{
		"nobody claims to be somebody else":        {"eva", "root", "eva"},
		"root may, as sudo does":                   {"root", "eva", "eva"},
		"root is root":                             {"root", "", "root"},
		"a name does not forge lines of the log":   {"root", "eva\n9 root", "eva9 root"},
		"without a socket there is only the claim": {"", "eva", "eva"},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			if c.peer != "" {
				r = r.WithContext(WithUser(r.Context(), c.peer))
			}
			if got := userOf(r, c.claimed); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestHealthIsSeenWithoutRights(t *testing.T) {
	for path, f := range map[string]struct {
		err    error
		status int
	}{"/healthz": {errors.New("port 53 is taken"), 503}, "/readyz": {errors.New("not yet"), 503}} {
		w := httptest.NewRecorder()
		NewHandler(&fake{err: f.err}, nil).ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != f.status {
			t.Errorf("%s of an ill daemon: %d", path, w.Code)
		}
		w = httptest.NewRecorder()
		NewHandler(&fake{}, nil).ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if body, _ := io.ReadAll(w.Body); w.Code != 200 || string(body) != "ok\n" {
			t.Errorf("%s of a healthy daemon: %d %q", path, w.Code, body)
		}
	}
}

func TestADaemonThatIsNotThereIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	_, err := NewClient(path).Status(t.Context())
	want := "no daemon answers on " + path + ": start it with `systemctl start gatehouse` or `gatehouse serve`, or name its socket with --socket"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestTheDescriptionNamesWhatIsServed(t *testing.T) {
	var doc struct {
		Paths map[string]map[string]struct{ Summary string }
	}
	if err := json.Unmarshal(OpenAPI(), &doc); err != nil {
		t.Fatal(err)
	}
	mux := NewHandler(&fake{}, http.NotFoundHandler()).(*http.ServeMux)
	for path, methods := range doc.Paths {
		for method, op := range methods {
			if op.Summary == "" {
				t.Errorf("%s %s has no summary", method, path)
			}
			concrete := strings.NewReplacer("{kind}", "vpc", "{name}", "a").Replace(path)
			_, pattern := mux.Handler(httptest.NewRequest(strings.ToUpper(method), concrete, nil))
			if pattern == "" || pattern == "/" {
				t.Errorf("%s %s is described but not served", method, path)
			}
		}
	}
}
