package main

import (
	"bufio"
	"fmt"
	"image/color"
	"math"
	"os"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"

	"github.com/zap-migrate/zap/e2e"
)

// Colours: dots and lines of the client, and the pause.
var (
	blue   = color.NRGBA{R: 0x1f, G: 0x5a, B: 0xa8, A: 0xff}
	dots   = color.NRGBA{R: 0x1f, G: 0x5a, B: 0xa8, A: 0x70}
	orange = color.NRGBA{R: 0xf2, G: 0x8e, B: 0x2b, A: 0x48}
	rust   = color.NRGBA{R: 0xb4, G: 0x4f, B: 0x00, A: 0xff}
	grey   = color.NRGBA{R: 0x88, G: 0x88, B: 0x88, A: 0xff}
	pale   = color.NRGBA{R: 0xe4, G: 0xe4, B: 0xe4, A: 0xff}
)

const (
	width, height = 12 * vg.Inch, 8.4 * vg.Inch
	resolution    = 120 // dots per inch
)

// drawPicture writes the picture: above, every reply of the whole run; below, each move from near.
func drawPicture(path string, began time.Time, moves []*story, samples []e2e.Sample) error {
	img := vgimg.NewWith(vgimg.UseWH(width, height), vgimg.UseDPI(resolution))
	page := draw.New(img)
	title := style(18, -0.5)
	page.FillText(title, vg.Point{X: width / 2, Y: height - 0.36*vg.Inch}, "A redis moves to another host and back while a client counts on one TCP connection")
	gap := 0.25 * vg.Inch
	below := 3.6 * vg.Inch
	crop := func(left, right, bottom, top vg.Length) draw.Canvas {
		return draw.Crop(page, left, -right, bottom, -top)
	}
	overview(began, moves, samples).Draw(crop(gap, gap, below+gap, 0.55*vg.Inch))
	share := (width - gap) / vg.Length(len(moves))
	for i, s := range moves {
		left := gap + share*vg.Length(i)
		closeUp(s, samples).Draw(crop(left, width-left-share+gap, gap/2, height-below))
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	out := bufio.NewWriter(file)
	if _, err := (vgimg.PngCanvas{Canvas: img}).WriteTo(out); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return file.Close()
}

// newPlot is a plot in the picture's style.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.Title.TextStyle, p.Title.Padding = title, style(13, -0.5), 6
	p.Title.TextStyle.YAlign = text.YTop
	p.X.Label.Text, p.Y.Label.Text = x, y
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Label.TextStyle.Font = style(11, 0).Font
		axis.Label.Padding = 4
		axis.Tick.Label.Font = style(10, 0).Font
		axis.Tick.Color, axis.LineStyle.Color = grey, grey
		axis.Padding = 0
	}
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = pale, pale
	p.Add(grid)
	return p
}

// style is text of a size in points.
func style(size, align float64) text.Style {
	return text.Style{
		Color: color.Black, XAlign: text.XAlignment(align), YAlign: text.YCenter, Handler: plot.DefaultTextHandler,
		Font: font.Font{Typeface: "Liberation", Variant: "Sans", Size: font.Length(size)},
	}
}

// overview has a dot for each reply. Its upward axis is that of the logarithms.
func overview(began time.Time, moves []*story, samples []e2e.Sample) *plot.Plot {
	p := newPlot("Every reply of the run", "time since the client began, s", "time until the reply, ms")
	var points plotter.XYs
	lowest, highest := math.Inf(1), math.Inf(-1)
	for _, s := range samples {
		y := math.Log10(math.Max(inMillis(s.Took), 0.001))
		points = append(points, plotter.XY{X: s.At.Sub(began).Seconds(), Y: y})
		lowest, highest = math.Min(lowest, y), math.Max(highest, y)
	}
	for _, s := range moves {
		from := s.frozen.Sub(began).Seconds()
		p.Add(&band{from: from, to: from + s.final.PauseMS/1000, label: fmt.Sprintf("%s to %s: paused %.0f ms", s.from, s.to, s.final.PauseMS)})
	}
	scatter := &plotter.Scatter{XYs: points, GlyphStyle: draw.GlyphStyle{Color: dots, Radius: 1.3, Shape: draw.CircleGlyph{}}}
	p.Add(scatter)
	for _, s := range moves {
		worst := plotter.XYs{{X: s.worst.At.Sub(began).Seconds(), Y: math.Log10(inMillis(s.worst.Took))}}
		p.Add(&plotter.Scatter{XYs: worst, GlyphStyle: draw.GlyphStyle{Color: rust, Radius: 3.2, Shape: draw.CircleGlyph{}}})
	}
	p.Y.Tick.Marker = plot.TickerFunc(decades)
	p.Y.Min, p.Y.Max = math.Floor(lowest), math.Ceil(highest+0.2)
	p.X.Min, p.X.Tick.Marker = 0, plot.TickerFunc(rounded)
	return p
}

// decades labels whole logarithms with their powers of ten.
func decades(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for e := low; e <= high; e++ {
		ticks = append(ticks, plot.Tick{Value: e, Label: fmt.Sprintf("%g", math.Pow(10, e))})
		for i := 2.0; i < 10 && e < high; i++ {
			ticks = append(ticks, plot.Tick{Value: e + math.Log10(i)})
		}
	}
	return ticks
}

// rounded puts about eight ticks on round numbers.
func rounded(low, high float64) []plot.Tick {
	step := math.Pow(10, math.Floor(math.Log10((high-low)/4)))
	for _, factor := range []float64{2, 2.5, 2} {
		if (high-low)/step > 10 {
			step *= factor
		}
	}
	var ticks []plot.Tick
	for value := math.Ceil(low/step) * step; value <= high; value += step {
		ticks = append(ticks, plot.Tick{Value: value, Label: fmt.Sprintf("%g", math.Round(value*1e6)/1e6+0)})
	}
	return ticks
}

// closeUp shows how long the client has waited at each moment: it rises while a reply is due and falls when it comes.
func closeUp(s *story, samples []e2e.Sample) *plot.Plot {
	p := newPlot(fmt.Sprintf("From %s to %s, from near", s.from, s.to), "time since the freeze, ms", "client has waited, ms")
	pause := s.final.PauseMS
	around := math.Max(pause, inMillis(s.worst.Took))
	low, high := -0.45*around, 1.6*around
	var line plotter.XYs
	for _, sample := range samples {
		at, took := inMillis(sample.At.Sub(s.frozen)), inMillis(sample.Took)
		if at+took < low || at > high {
			continue
		}
		line = append(line, plotter.XY{X: at}, plotter.XY{X: at + took, Y: took}, plotter.XY{X: at + took})
	}
	p.Add(&band{from: 0, to: pause, label: fmt.Sprintf("paused %.1f ms", pause)})
	for i, m := range s.marks {
		at := inMillis(m.at)
		p.Add(&pennant{at: at, label: m.what, row: i, left: at > pause/2})
	}
	p.Add(&plotter.Line{XYs: line, LineStyle: draw.LineStyle{Color: blue, Width: 1.4}})
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = low, high, 0, 1.6*around
	p.X.Tick.Marker, p.Y.Tick.Marker = plot.TickerFunc(rounded), plot.TickerFunc(rounded)
	return p
}

func inMillis(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// band is a stretch of time, from bottom to top.
type band struct {
	from, to float64
	label    string
}

// Plot implements plot.Plotter.
func (b *band) Plot(c draw.Canvas, p *plot.Plot) {
	x, _ := p.Transforms(&c)
	left, right := x(b.from), x(b.to)
	if right-left < 2 {
		right = left + 2
	}
	c.FillPolygon(orange, []vg.Point{{X: left, Y: c.Min.Y}, {X: right, Y: c.Min.Y}, {X: right, Y: c.Max.Y}, {X: left, Y: c.Max.Y}})
	label := style(11, 0)
	label.Color = rust
	at := vg.Point{X: right + 5, Y: c.Max.Y - 9}
	if at.X+label.Width(b.label) > c.Max.X {
		at.X = left - 5 - label.Width(b.label)
	}
	c.FillText(label, at, b.label)
}

// pennant is a moment inside the pause. Its label is one of several below each other, on one of the moment's sides.
type pennant struct {
	at    float64
	label string
	row   int
	left  bool
}

// Plot implements plot.Plotter.
func (f *pennant) Plot(c draw.Canvas, p *plot.Plot) {
	x, _ := p.Transforms(&c)
	at := x(f.at)
	line := draw.LineStyle{Color: grey, Width: 0.6, Dashes: []vg.Length{2, 2}}
	c.StrokeLine2(line, at, c.Min.Y, at, c.Max.Y)
	label, aside := style(9, 0), vg.Length(3)
	if f.left {
		label, aside = style(9, -1), -3
	}
	label.Color = color.NRGBA{R: 0x44, G: 0x44, B: 0x44, A: 0xff}
	c.FillText(label, vg.Point{X: at + aside, Y: c.Max.Y - 22 - vg.Length(f.row)*12}, fmt.Sprintf("%s %.0f", f.label, f.at))
}
