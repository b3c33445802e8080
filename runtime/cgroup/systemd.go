package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Unit is a unit of systemd that has a container's group.
type Unit struct {
	// Slice is the slice that it is in, by systemd's name: "machine.slice".
	Slice string
	// Name is its own name, "zap-web.scope", or that of a slice.
	Name string
	// Properties are from the annotations org.systemd.property.*, by systemd's names.
	Properties map[string]godbus.Variant
}

// ErrNoSystemd is about a host that was not booted with systemd; callers look for its text.
var ErrNoSystemd = errors.New("systemd not running on this host, cannot use systemd cgroups manager")

// ParseUnit reads a cgroupsPath as the systemd driver has it, "slice:prefix:name"; an empty one is a scope with the container's name in
// the default slice. user says that it is for the user's own systemd.
func ParseUnit(path, id string, user bool) (Unit, error) {
	u := Unit{Slice: "system.slice", Name: "zap-" + id + ".scope"}
	if user {
		u.Slice = "user.slice"
	}
	if path == "" {
		return u, nil
	}
	parts := strings.Split(path, ":")
	if len(parts) != 3 || parts[2] == "" || strings.ContainsAny(path, "/\x00\n") {
		return u, fmt.Errorf("expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got %q instead "+
			"(config.json: linux.cgroupsPath)", path)
	}
	if parts[0] != "" {
		u.Slice = parts[0]
	}
	if u.Name = parts[2]; !u.isSlice() {
		u.Name = parts[1] + "-" + parts[2] + ".scope"
	}
	_, err := ExpandSlice(u.Slice)
	return u, err
}

func (u Unit) isSlice() bool { return strings.HasSuffix(u.Name, ".slice") }

// kind is the unit's type as systemd's interfaces call it.
func (u Unit) kind() string {
	if u.isSlice() {
		return "Slice"
	}
	return "Scope"
}

// ExpandSlice returns the path of a slice: that of a-b.slice is /a.slice/a-b.slice (systemd.slice(5)).
func ExpandSlice(name string) (string, error) {
	base, ok := strings.CutSuffix(name, ".slice")
	switch {
	case name == "-.slice":
		return "/", nil
	case !ok || base == "" || strings.Contains(name, "/"):
		return "", fmt.Errorf("invalid slice name: %s", name)
	}
	path, prefix := "", ""
	for part := range strings.SplitSeq(base, "-") {
		if part == "" {
			return "", fmt.Errorf("invalid slice name: %s", name)
		}
		path += "/" + prefix + part + ".slice"
		prefix += part + "-"
	}
	return path, nil
}

// systemdDir is where a booted systemd can be told by (sd_booted(3)).
const systemdDir = "/run/systemd/system"

// dial connects to the systemd of the host, or of the user.
func dial(ctx context.Context) (*dbus.Conn, error) {
	if info, err := os.Lstat(systemdDir); err != nil || !info.IsDir() {
		return nil, ErrNoSystemd
	}
	conn, err := dbus.NewWithContext(ctx)
	if os.Geteuid() != 0 {
		conn, err = dbus.NewUserConnectionContext(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	return conn, nil
}

// Start has systemd make the unit around process pid and its group, and applies res. Processes that come later enter the group by
// themselves; the unit lasts as long as one is in it.
func (u Unit) Start(ctx context.Context, pid int, res *specs.LinuxResources) (_ *Cgroup, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	all, err := host()
	if err != nil {
		return nil, err
	}
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	c := &Cgroup{trees: all}
	properties, rounded, err := u.properties(conn, c.unifiedOnly(), pid, res)
	if err != nil {
		return nil, err
	}
	if err := u.start(ctx, conn, properties); err != nil {
		return nil, fmt.Errorf("start unit %s: %w", u.Name, err)
	}
	defer func() {
		if err != nil {
			_ = u.stop(context.WithoutCancel(ctx), conn)
		}
	}()
	at, err := conn.GetUnitTypePropertyContext(ctx, u.Name, u.kind(), "ControlGroup")
	if err != nil {
		return nil, fmt.Errorf("ask for the cgroup of unit %s: %w", u.Name, err)
	}
	path, _ := at.Value.Value().(string)
	if c.path, err = cleanPath(path); err != nil {
		return nil, err
	}
	for _, h := range c.trees {
		if _, err := c.makeIn(h); err != nil {
			return nil, fmt.Errorf("create cgroup %s: %w", c.path, err)
		}
	}
	if err := c.apply(rounded); err != nil {
		return nil, fmt.Errorf("create cgroup %s: %w", c.path, err)
	}
	return c, nil
}

// properties are all that the unit is started with. The limits come back as systemd has them.
func (u Unit) properties(conn *dbus.Conn, unified bool, pid int, res *specs.LinuxResources) ([]dbus.Property, *specs.LinuxResources, error) {
	out := []dbus.Property{dbus.PropDescription("zap container " + u.Name)}
	if u.isSlice() {
		out = append(out, dbus.PropWants(u.Slice))
	} else {
		out = append(out, dbus.PropSlice(u.Slice), property("Delegate", true), property("PIDs", []uint32{uint32(pid)}))
	}
	for _, name := range []string{"MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting"} {
		out = append(out, property(name, true))
	}
	out = append(out, property("DefaultDependencies", false))
	limits, rounded, err := limitProperties(res, unified, func() int { return systemdVersion(conn) }, true)
	if err != nil {
		return nil, nil, err
	}
	out = append(out, limits...)
	for _, name := range sortedKeys(u.Properties) {
		out = append(out, dbus.Property{Name: name, Value: u.Properties[name]})
	}
	return out, rounded, nil
}

// start starts the unit and waits for it. A failed one of its name that is left from before is forgotten first.
func (u Unit) start(ctx context.Context, conn *dbus.Conn, properties []dbus.Property) error {
	done := make(chan string, 1)
	_, err := conn.StartTransientUnitContext(ctx, u.Name, "replace", properties, done)
	if exists := isBusError(err, "org.freedesktop.systemd1.UnitExists"); exists {
		if u.isSlice() {
			return nil
		}
		_ = conn.ResetFailedUnitContext(ctx, u.Name)
		_, err = conn.StartTransientUnitContext(ctx, u.Name, "replace", properties, done)
	}
	if err != nil {
		return err
	}
	select {
	case result := <-done:
		if result != "done" {
			_ = conn.ResetFailedUnitContext(ctx, u.Name)
			return fmt.Errorf("systemd says %q", result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for systemd: %w", context.Cause(ctx))
	}
}

// Stop ends the unit, with all its processes. It is no error if there is none.
func (u Unit) Stop(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return u.stop(ctx, conn)
}

func (u Unit) stop(ctx context.Context, conn *dbus.Conn) error {
	done := make(chan string, 1)
	_, err := conn.StopUnitContext(ctx, u.Name, "replace", done)
	if err == nil {
		select {
		case <-done:
		case <-ctx.Done():
			err = fmt.Errorf("stop unit %s: %w", u.Name, context.Cause(ctx))
		}
	} else if isBusError(err, "org.freedesktop.systemd1.NoSuchUnit") {
		err = nil
	} else {
		err = fmt.Errorf("stop unit %s: %w", u.Name, err)
	}
	_ = conn.ResetFailedUnitContext(ctx, u.Name) // a failed one would stay
	return err
}

// Set tells systemd about new limits, so that it does not write the old ones when it reloads, and returns them as they are to be written
// into the group.
func (u Unit) Set(ctx context.Context, res *specs.LinuxResources) (*specs.LinuxResources, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	all, err := host()
	if err != nil {
		return nil, err
	}
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	version := func() int { return systemdVersion(conn) }
	properties, rounded, err := limitProperties(res, (&Cgroup{trees: all}).unifiedOnly(), version, false)
	if err != nil || len(properties) == 0 {
		return rounded, err
	}
	if err := conn.SetUnitPropertiesContext(ctx, u.Name, true, properties...); err != nil {
		return nil, fmt.Errorf("set properties of unit %s: %w", u.Name, err)
	}
	return rounded, nil
}

// isBusError says whether an error came over the bus with this name.
func isBusError(err error, name string) bool {
	var e godbus.Error
	return errors.As(err, &e) && e.Name == name
}

// systemdVersion is systemd's version, 0 when it does not say.
func systemdVersion(conn *dbus.Conn) int {
	text, err := conn.GetManagerProperty("Version")
	if err != nil {
		return 0
	}
	text = strings.TrimLeft(text, `"v`)
	if end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		text = text[:end]
	}
	n, _ := strconv.Atoi(text)
	return n
}

func property(name string, value any) dbus.Property {
	return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
}
