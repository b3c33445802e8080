package main

import (
	"net"
	"testing"
	"time"
)

// TestReadArrival has `zap serve` say its first word right behind the job: it was lost once, and the move hung.
func TestReadArrival(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	_ = near.SetDeadline(time.Now().Add(10 * time.Second))
	go func() { _, _ = far.Write([]byte(`{"id":"a"}` + "\n" + `{"word":"files"}` + "\n")) }()
	job, serve, err := readArrival(near)
	if err != nil || job.ID != "a" {
		t.Fatalf("%+v, %v", job, err)
	}
	if line, err := serve.Lines.ReadString('\n'); err != nil || line != `{"word":"files"}`+"\n" {
		t.Errorf("then came %q, %v", line, err)
	}
	_ = far.Close()
	if _, _, err := readArrival(near); err == nil {
		t.Error("no job: no error")
	}
}
