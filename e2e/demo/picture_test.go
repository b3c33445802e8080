package main

import (
	"image/png"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
)

// TestPicture draws an invented run, and wants a picture of the size that it should have, with the pause's colour in it.
func TestPicture(t *testing.T) {
	began := time.Unix(1000, 0)
	var samples []e2e.Sample
	var moves []*story
	for at, n := time.Duration(0), 0; at < 6*time.Second; n++ {
		took := 120*time.Microsecond + time.Duration(n%97)*4*time.Microsecond
		for i, freeze := range []time.Duration{2 * time.Second, 4 * time.Second} {
			if len(moves) == i && at+took > freeze {
				took = 52 * time.Millisecond
				s := &story{from: "alpha", to: "beta", frozen: began.Add(freeze), worst: e2e.Sample{At: began.Add(at), Took: took}}
				s.final.PauseMS = 47.3
				s.marks = []mark{{14 * time.Millisecond, "memory sent"}, {17 * time.Millisecond, "dumped"}, {44 * time.Millisecond, "restored"}, {47 * time.Millisecond, "running"}}
				moves = append(moves, s)
			}
		}
		samples = append(samples, e2e.Sample{At: began.Add(at), Took: took})
		at += took + time.Millisecond
	}
	path := os.Getenv("DEMO_PICTURE")
	if path == "" {
		path = filepath.Join(t.TempDir(), "demo.png")
	}
	if err := drawPicture(path, began, moves, samples); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	if got := img.Bounds().Dx(); got != int(width.Points()/72*resolution) {
		t.Errorf("the picture is %d pixels wide", got)
	}
	bands := 0
	for x, was := 0, false; x < img.Bounds().Dx(); x++ {
		r, _, b, _ := img.At(x, img.Bounds().Dy()*3/10).RGBA()
		is := r > b+0x2000
		if is && !was {
			bands++
		}
		was = is
	}
	if bands != len(moves) {
		t.Errorf("the picture marks %d pauses of %d", bands, len(moves))
	}
}
