package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Package encoding/json looks at every type that a value might hold before it looks at the value. Below specs.Spec there are seventy
// structs, those of other operating systems among them, and to look at them takes longer than all else that is done with a usual
// specification. So the large structs are taken apart here, and only for what a specification has encoding/json is asked. What is read and
// written is the same.

// large are the structs that are taken apart. Their fields have plain names in their tags and no options but omitempty.
var large = []reflect.Type{
	reflect.TypeFor[specs.Spec](), reflect.TypeFor[specs.Process](), reflect.TypeFor[specs.Linux](), reflect.TypeFor[specs.LinuxResources](),
}

// isLarge says whether t is a pointer to one of them.
func isLarge(t reflect.Type) bool {
	if t.Kind() != reflect.Pointer {
		return false
	}
	for _, l := range large {
		if t.Elem() == l {
			return true
		}
	}
	return false
}

// tagOf returns the name of a field in JSON, and whether it is left out when it is empty.
func tagOf(f reflect.StructField) (name string, omit bool) {
	name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name, options == "omitempty"
}

// errPlain says that a document is one for encoding/json alone.
var errPlain = errors.New("not a usual document")

// unmarshalSpec is json.Unmarshal, except that of two members of the same name only the last one counts. Documents with errors, and those
// whose members are named in another case, are left to it.
func unmarshalSpec(data []byte, s *specs.Spec) error {
	fresh := new(specs.Spec)
	if err := unmarshalLarge(data, reflect.ValueOf(fresh).Elem()); err != nil {
		return json.Unmarshal(data, s)
	}
	*s = *fresh
	return nil
}

// unmarshalLarge decodes into a large struct that is all zero.
func unmarshalLarge(data []byte, v reflect.Value) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return err
	}
	if members == nil { // null
		return errPlain
	}
	known := 0
	for i := range v.NumField() {
		name, _ := tagOf(v.Type().Field(i))
		raw, ok := members[name]
		if !ok {
			continue
		}
		known++
		field := v.Field(i)
		if !isLarge(field.Type()) {
			if err := json.Unmarshal(raw, field.Addr().Interface()); err != nil {
				return err
			}
			continue
		}
		field.Set(reflect.New(field.Type().Elem()))
		if err := unmarshalLarge(raw, field.Elem()); err != nil {
			return err
		}
	}
	if known < len(members) && !unknown(members, v.Type()) {
		return errPlain
	}
	return nil
}

// unknown says whether the members that no field of t is named like are none of its in another case either.
func unknown(members map[string]json.RawMessage, t reflect.Type) bool {
	for member := range members {
		for i := range t.NumField() {
			if name, _ := tagOf(t.Field(i)); name != member && strings.EqualFold(name, member) {
				return false
			}
		}
	}
	return true
}

// marshalLarge appends what json.Marshal writes of a large struct.
func marshalLarge(out *bytes.Buffer, v reflect.Value) error {
	separator := byte('{')
	for i := range v.NumField() {
		field := v.Field(i)
		name, omit := tagOf(v.Type().Field(i))
		if omit && isEmpty(field) {
			continue
		}
		out.WriteByte(separator)
		separator = ','
		out.WriteString(`"` + name + `":`)
		if isLarge(field.Type()) && !field.IsNil() {
			if err := marshalLarge(out, field.Elem()); err != nil {
				return err
			}
			continue
		}
		data, err := json.Marshal(field.Interface())
		if err != nil {
			return err
		}
		out.Write(data)
	}
	if separator == '{' {
		out.WriteByte('{')
	}
	out.WriteByte('}')
	return nil
}

// isEmpty is what omitempty means by it.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Map, reflect.Slice, reflect.String, reflect.Array:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

// bundleJSON is a Bundle with its specification as JSON.
type bundleJSON struct {
	Dir     string          `json:"dir"`
	Spec    json.RawMessage `json:"spec"`
	Overlay *Overlay        `json:"overlay,omitempty"`
}

// MarshalJSON writes the bundle as its fields' tags say.
func (b *Bundle) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	if b.Spec == nil {
		out.WriteString("null")
	} else if err := marshalLarge(&out, reflect.ValueOf(b.Spec).Elem()); err != nil {
		return nil, err
	}
	return json.Marshal(bundleJSON{Dir: b.Dir, Spec: out.Bytes(), Overlay: b.Overlay})
}

// UnmarshalJSON replaces the bundle by what MarshalJSON wrote.
func (b *Bundle) UnmarshalJSON(data []byte) error {
	var raw bundleJSON
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	fresh := Bundle{Dir: raw.Dir, Overlay: raw.Overlay}
	if len(raw.Spec) > 0 && string(raw.Spec) != "null" {
		fresh.Spec = new(specs.Spec)
		if err := unmarshalSpec(raw.Spec, fresh.Spec); err != nil {
			return err
		}
	}
	*b = fresh
	return nil
}
