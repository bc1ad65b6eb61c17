package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"gatehouse/vpc"
)

// Client talks to a daemon over its Unix socket.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient prepares a client; it connects when it is used.
func NewClient(socket string) *Client {
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

// Do sends a request and decodes the answer into out, unless out is nil. A refusal is an *Error.
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, body, out any) error {
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		reader = bytes.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(text)
	}
	resp, err := c.open(ctx, method, path, query, reader)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch o := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*o, err = io.ReadAll(resp.Body)
		return err
	case io.Writer:
		_, err = io.Copy(o, resp.Body)
		return err
	default:
		if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
			return fmt.Errorf("read the daemon's answer: %w", err)
		}
		return nil
	}
}

// open sends a request and gives the answer's open body, or the refusal.
func (c *Client) open(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "gatehouse", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explainDial(err)
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("read the daemon's answer: %w", err)
	}
	var e errorBody
	if json.Unmarshal(text, &e) == nil && e.Error != nil {
		return nil, e.Error
	}
	return nil, fmt.Errorf("the daemon answered %s: %s", resp.Status, bytes.TrimSpace(text))
}

// explainDial says what to do about a daemon that cannot be reached.
func (c *Client) explainDial(err error) error {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "dial" {
		return err
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%s: permission denied: run as root or join the socket's group", c.socket)
	}
	return fmt.Errorf("no daemon answers on %s: start it with `systemctl start gatehouse` or `gatehouse serve`, or name its socket with --socket", c.socket)
}

// Apply changes the desired state, or says what would change (DryRun).
func (c *Client) Apply(ctx context.Context, r ApplyRequest) (*ApplyResult, error) {
	var out ApplyResult
	return &out, c.Do(ctx, http.MethodPost, "/v1/apply", nil, r, &out)
}

// Explain asks whether a connection would pass.
func (c *Client) Explain(ctx context.Context, r ExplainRequest) (*Explanation, error) {
	var out Explanation
	return &out, c.Do(ctx, http.MethodPost, "/v1/explain", nil, r, &out)
}

// DNSQuery asks what an instance of a VPC is answered to a question.
func (c *Client) DNSQuery(ctx context.Context, vpcName, name, typ string) (*DNSAnswer, error) {
	var out DNSAnswer
	return &out, c.Do(ctx, http.MethodGet, "/v1/dns/query", url.Values{"vpc": {vpcName}, "name": {name}, "type": {typ}}, nil, &out)
}

// DNSFlush forgets what upstreams said about a name and everything below it; an empty name means all.
func (c *Client) DNSFlush(ctx context.Context, name string) (int, error) {
	var out Flushed
	err := c.Do(ctx, http.MethodPost, "/v1/dns/flush", url.Values{"name": {name}}, nil, &out)
	return out.Flushed, err
}

// Test evaluates the assertions of manifests against what is in force.
func (c *Client) Test(ctx context.Context, files []File) ([]TestResult, error) {
	var out []TestResult
	return out, c.Do(ctx, http.MethodPost, "/v1/test", nil, files, &out)
}

// Status asks for the daemon's health.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var out Status
	return &out, c.Do(ctx, http.MethodGet, "/v1/status", nil, nil, &out)
}

// Doctor asks what keeps the daemon from working.
func (c *Client) Doctor(ctx context.Context) ([]Finding, error) {
	var out []Finding
	return out, c.Do(ctx, http.MethodGet, "/v1/doctor", nil, nil, &out)
}

// Export gives the whole desired state as a manifest.
func (c *Client) Export(ctx context.Context) ([]byte, error) {
	var out []byte
	return out, c.Do(ctx, http.MethodGet, "/v1/export", nil, nil, &out)
}

// Objects lists objects of a kind as their JSON fields; no names means all.
func (c *Client) Objects(ctx context.Context, kind vpc.Kind, vpcName string, names []string) ([]map[string]any, error) {
	var out []map[string]any
	return out, c.Do(ctx, http.MethodGet, "/v1/"+string(kind), vpcQuery(vpcName, "name", names...), nil, &out)
}

// Describe gives everything about one object.
func (c *Client) Describe(ctx context.Context, kind vpc.Kind, vpcName, name string) (*DescriptionView, error) {
	var out DescriptionView
	return &out, c.Do(ctx, http.MethodGet, "/v1/"+string(kind)+"/"+name, vpcQuery(vpcName, "describe", "true"), nil, &out)
}

// DescriptionView is a Description as a client reads it.
type DescriptionView struct {
	Object   map[string]any `json:"object"`
	Sections []Section      `json:"sections"`
}

// Put creates (POST), replaces (PUT) or patches (PATCH) one object.
func (c *Client) Put(ctx context.Context, r PutRequest) (*ApplyResult, error) {
	method := http.MethodPut
	switch {
	case r.Create:
		method = http.MethodPost
	case r.Patch:
		method = http.MethodPatch
	}
	var out ApplyResult
	return &out, c.Do(ctx, method, "/v1/"+string(r.Kind)+"/"+r.Name, changeQuery(r.VPC, r.User, r.NoWait, r.Timeout), r.Body, &out)
}

// Delete removes one object.
func (c *Client) Delete(ctx context.Context, r DeleteRequest) (*ApplyResult, error) {
	var out ApplyResult
	return &out, c.Do(ctx, http.MethodDelete, "/v1/"+string(r.Kind)+"/"+r.Name, changeQuery(r.VPC, r.User, r.NoWait, r.Timeout), nil, &out)
}

// Confirm makes an `apply --confirm` permanent.
func (c *Client) Confirm(ctx context.Context) error {
	return c.Do(ctx, http.MethodPost, "/v1/confirm", nil, nil, nil)
}

// Rollback goes back to an earlier revision; 0 is the one before the last change.
func (c *Client) Rollback(ctx context.Context, revision uint64, user string) (*ApplyResult, error) {
	var out ApplyResult
	q := url.Values{"revision": {strconv.FormatUint(revision, 10)}, "user": {user}}
	return &out, c.Do(ctx, http.MethodPost, "/v1/rollback", q, nil, &out)
}

// Events gives the audit log from a revision on.
func (c *Client) Events(ctx context.Context, from uint64) ([]Event, error) {
	var out []Event
	return out, c.Do(ctx, http.MethodGet, "/v1/events", url.Values{"from": {strconv.FormatUint(from, 10)}}, nil, &out)
}

// Flows gives the newest refused flows, oldest first.
func (c *Client) Flows(ctx context.Context) ([]Flow, error) {
	var out []Flow
	return out, c.Do(ctx, http.MethodGet, "/v1/flows", nil, nil, &out)
}

// FollowFlows calls f for every refused flow until ctx ends.
func (c *Client) FollowFlows(ctx context.Context, f func(Flow) error) error {
	resp, err := c.open(ctx, http.MethodGet, "/v1/flows", url.Values{"follow": {"true"}}, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	for sc.Scan() {
		text, ok := strings.CutPrefix(sc.Text(), "data: ")
		if !ok {
			continue
		}
		var flow Flow
		if err := json.Unmarshal([]byte(text), &flow); err != nil {
			return fmt.Errorf("read the daemon's answer: %w", err)
		}
		if err := f(flow); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return sc.Err()
}

// FirewallRender gives the ruleset as iptables-save would print it.
func (c *Client) FirewallRender(ctx context.Context) ([]byte, error) {
	var out []byte
	return out, c.Do(ctx, http.MethodGet, "/v1/firewall/render", nil, nil, &out)
}

// FirewallVerify lists what the kernel has otherwise than it should.
func (c *Client) FirewallVerify(ctx context.Context) ([]string, error) {
	var out []string
	return out, c.Do(ctx, http.MethodPost, "/v1/firewall/verify", nil, nil, &out)
}

// FirewallResync reads the kernel back and repairs it now.
func (c *Client) FirewallResync(ctx context.Context) error {
	return c.Do(ctx, http.MethodPost, "/v1/firewall/resync", nil, nil, nil)
}

// FirewallCounters gives how often each rule has decided.
func (c *Client) FirewallCounters(ctx context.Context) ([]RuleCounter, error) {
	var out []RuleCounter
	return out, c.Do(ctx, http.MethodGet, "/v1/firewall/counters", nil, nil, &out)
}

// Teardown removes every trace from the kernel and stops the daemon's enforcement; the state is kept.
func (c *Client) Teardown(ctx context.Context) error {
	return c.Do(ctx, http.MethodPost, "/v1/teardown", nil, nil, nil)
}

// Backup writes a consistent copy of the state.
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	return c.Do(ctx, http.MethodGet, "/v1/backup", nil, nil, w)
}

func vpcQuery(vpcName, key string, values ...string) url.Values {
	q := url.Values{}
	if vpcName != "" {
		q.Set("vpc", vpcName)
	}
	for _, v := range values {
		q.Add(key, v)
	}
	return q
}

func changeQuery(vpcName, user string, noWait bool, timeout time.Duration) url.Values {
	q := url.Values{"user": {user}}
	if vpcName != "" {
		q.Set("vpc", vpcName)
	}
	if noWait {
		q.Set("noWait", "true")
	}
	if timeout > 0 {
		q.Set("timeout", timeout.String())
	}
	return q
}
