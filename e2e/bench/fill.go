package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
)

// What a redis is filled with: values of valueSize bytes, every other one random bytes that don't compress, the rest words. With
// what redis puts around it a value has 8 KiB. Larger ones, or rounder, leave a quarter of the redis's memory unused.
const (
	valueSize = 8<<10 - 32
	pipeline  = 64
)

// mixture says it in the table.
const mixture = "values of 8 KiB, half of them random bytes that do not compress, half of them text of random English words"

// words are what the text is made of.
var words = []string{
	"the", "of", "and", "a", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are", "as", "with", "his", "they", "at", "be",
	"this", "have", "from", "or", "one", "had", "by", "word", "but", "not", "what", "all", "were", "we", "when", "your", "can", "said", "there",
	"use", "an", "each", "which", "she", "do", "how", "their", "if", "will", "up", "other", "about", "out", "many", "then", "them", "these",
	"so", "some", "her", "would", "make", "like", "him", "into", "time", "has", "look", "two", "more", "write", "go", "see", "number", "no",
	"way", "could", "people", "my", "than", "first", "water", "been", "call", "who", "oil", "its", "now", "find", "long", "down", "day", "did",
	"get", "come", "made", "may", "part", "container", "machine", "memory", "network", "process", "connection", "address",
}

// fill stores size bytes in a redis.
func fill(t testing.TB, from e2e.NetNS, address string, size int) {
	t.Helper()
	conn, err := from.Dial(address, 20*time.Second)
	if err != nil {
		t.Fatalf("connect to redis: %v", err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Minute))
	in, out := bufio.NewReader(conn), bufio.NewWriterSize(conn, 1<<20)
	noise, dice := rand.NewChaCha8([32]byte{1}), rand.New(rand.NewPCG(1, 2))
	value, owed := make([]byte, valueSize), 0
	count := size / (8 << 10)
	for i := range count {
		if i%2 == 0 {
			noise.Read(value)
		} else {
			writeWords(value, dice)
		}
		fmt.Fprintf(out, "*3\r\n$3\r\nSET\r\n$12\r\nfill:%07d\r\n$%d\r\n%s\r\n", i, valueSize, value)
		if owed++; owed == pipeline || i == count-1 {
			if err := out.Flush(); err != nil {
				t.Fatalf("fill redis: %v", err)
			}
			for ; owed > 0; owed-- {
				if line, err := in.ReadString('\n'); err != nil || line != "+OK\r\n" {
					t.Fatalf("fill redis: %q, %v", line, err)
				}
			}
		}
	}
}

// writeWords fills p with words.
func writeWords(p []byte, dice *rand.Rand) {
	for n := 0; n < len(p); {
		n += copy(p[n:], words[dice.IntN(len(words))])
		n += copy(p[n:], " ")
	}
}

func mustFind(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%v (make deps installs it)", err)
	}
	return path
}
