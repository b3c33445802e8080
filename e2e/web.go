package e2e

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// Download is an HTTP download that takes its time.
type Download struct {
	read  atomic.Int64
	hurry atomic.Bool
	done  chan struct{}
	sum   string
	size  int64
	err   error
}

// StartDownload gets a file at rate bytes a second, through a small socket buffer, so that the server is held up and not
// just a queue between the two.
func StartDownload(t testing.TB, from NetNS, address, path string, rate int64) *Download {
	t.Helper()
	conn, err := from.Dial(address, 20*time.Second)
	if err != nil {
		t.Fatalf("connect to web server: %v", err)
	}
	conn.SetReadBuffer(256 << 10)
	d := &Download{done: make(chan struct{})}
	t.Cleanup(func() { conn.Close(); <-d.done })
	go func() {
		defer close(d.done)
		defer conn.Close()
		d.sum, d.err = d.get(conn, path, rate)
	}()
	return d
}

func (d *Download) get(conn net.Conn, path string, rate int64) (string, error) {
	resp, err := get(conn, bufio.NewReader(conn), path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	d.size = resp.ContentLength
	hash := sha256.New()
	begin := time.Now()
	for {
		conn.SetDeadline(time.Now().Add(replyTimeout))
		n, err := io.CopyN(hash, resp.Body, 128<<10)
		if d.read.Add(n); errors.Is(err, io.EOF) {
			return hex.EncodeToString(hash.Sum(nil)), nil
		}
		if err != nil {
			return "", fmt.Errorf("after %d of %d bytes: %w", d.read.Load(), d.size, err)
		}
		if d.hurry.Load() {
			continue
		}
		due := time.Duration(float64(d.read.Load()) / float64(rate) * float64(time.Second))
		time.Sleep(due - time.Since(begin))
	}
}

// Read is how many bytes have come so far.
func (d *Download) Read() int64 { return d.read.Load() }

// Hurry takes the rest as fast as it comes.
func (d *Download) Hurry() { d.hurry.Store(true) }

// Wait waits for the end and answers with the sha256 of what came, and its size.
func (d *Download) Wait(t testing.TB) (sum string, size int64) {
	t.Helper()
	select {
	case <-d.done:
	case <-time.After(5 * time.Minute):
		t.Fatalf("the download did not end; it has %d bytes", d.Read())
	}
	if d.err != nil {
		t.Fatalf("download: %v", d.err)
	}
	return d.sum, d.read.Load()
}

// get sends one request on a connection and reads the head of the answer.
func get(conn net.Conn, in *bufio.Reader, path string) (*http.Response, error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+conn.RemoteAddr().String()+path, nil)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(replyTimeout))
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(in, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("get %s: %s", path, resp.Status)
	}
	return resp, nil
}

// KeptAlive is an HTTP connection that idles between requests.
type KeptAlive struct {
	conn *net.TCPConn
	in   *bufio.Reader
}

// KeepAlive opens n connections, each with one request behind it.
func KeepAlive(t testing.TB, from NetNS, address, path string, n int) []*KeptAlive {
	t.Helper()
	var all []*KeptAlive
	for range n {
		conn, err := from.Dial(address, 20*time.Second)
		if err != nil {
			t.Fatalf("connect to web server: %v", err)
		}
		t.Cleanup(func() { conn.Close() })
		k := &KeptAlive{conn: conn, in: bufio.NewReader(conn)}
		if _, err := k.Get(path); err != nil {
			t.Fatal(err)
		}
		all = append(all, k)
	}
	return all
}

// Close ends the connection.
func (k *KeptAlive) Close() { k.conn.Close() }

// Get asks on the connection and answers with the body.
func (k *KeptAlive) Get(path string) (string, error) {
	resp, err := get(k.conn, k.in, path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.Close {
		err = errors.New("the server closes the connection")
	}
	return string(body), err
}
