package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/reflect/protoreflect"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// setting is a configuration setting that has a flag of its own.
type setting struct{ flag, path, usage string }

// settingFlags are the settings by flag. Bounds are the server's to check.
func settingFlags() []setting {
	return []setting{
		{"target-words", "chunking.target_words", "words a chunk aims at"},
		{"max-words", "chunking.max_words", "words a chunk never exceeds"},
		{"overlap-sentences", "chunking.overlap_sentences", "sentences repeated at the start of the next chunk"},
		{"model", "embedding.model", "embedding model"},
		{"mode", "retrieval.mode", "how searches rank: hybrid, vector or keyword"},
		{"top", "retrieval.top_n", "most hits of an answer"},
		{"keyword-weight", "retrieval.keyword_weight", "weight of the keyword score, 0..1"},
		{"fusion", "retrieval.fusion", "how rankings are merged: convex or reciprocal-rank"},
		{"min-score", "retrieval.min_score", "leave out hits below this score, 0..1"},
	}
}

// settings collects a Config from flags, and which of its paths were named.
type settings struct {
	config *granaryv1.Config
	paths  []string
}

// addSettings gives cmd a flag for each setting below prefix.
func addSettings(cmd *cobra.Command, prefix string) *settings {
	s := &settings{config: &granaryv1.Config{}}
	for _, f := range settingFlags() {
		if strings.HasPrefix(f.path, prefix) {
			cmd.Flags().Var(&settingValue{to: s, path: f.path}, f.flag, f.usage)
		}
	}
	return s
}

// settingValue is one setting as a flag; pflag asks it to read its text.
type settingValue struct {
	to   *settings
	path string
	text string
}

func (v *settingValue) String() string { return v.text }

func (v *settingValue) Set(text string) error {
	if err := setPath(v.to.config, v.path, text); err != nil {
		return err
	}
	v.text = text
	if !slices.Contains(v.to.paths, v.path) {
		v.to.paths = append(v.to.paths, v.path)
	}
	return nil
}

// Type names the kind of value in the help.
func (v *settingValue) Type() string {
	_, field, err := locate((&granaryv1.Config{}).ProtoReflect(), v.path, false)
	if err != nil {
		return "value"
	}
	switch field.Kind() {
	case protoreflect.Int32Kind:
		return "int"
	case protoreflect.DoubleKind:
		return "float"
	case protoreflect.EnumKind:
		return "name"
	default:
		return "string"
	}
}

// locate walks a path such as retrieval.top_n to the message that holds its
// last field. Messages on the way are made if create is set; else the holder
// of an unset field may be an invalid, empty message.
func locate(m protoreflect.Message, path string, create bool) (protoreflect.Message, protoreflect.FieldDescriptor, error) {
	names := strings.Split(path, ".")
	for i, name := range names {
		field := m.Descriptor().Fields().ByName(protoreflect.Name(name))
		if field == nil {
			return nil, nil, fmt.Errorf("unknown setting %q; there are %s", path, strings.Join(settingPaths(), ", "))
		}
		if i == len(names)-1 {
			return m, field, nil
		}
		if field.Kind() != protoreflect.MessageKind {
			return nil, nil, fmt.Errorf("setting %q has no part %q", path, names[i+1])
		}
		if create {
			m = m.Mutable(field).Message()
		} else {
			m = m.Get(field).Message()
		}
	}
	return nil, nil, fmt.Errorf("the setting has no name")
}

// setPath sets the setting at path from its text.
func setPath(config *granaryv1.Config, path, text string) error {
	if _, field, err := locate(config.ProtoReflect(), path, false); err != nil {
		return err
	} else if field.Kind() == protoreflect.MessageKind {
		return fmt.Errorf("%q is a group of settings; set one of %s", path, strings.Join(settingPaths(), ", "))
	}
	holder, field, err := locate(config.ProtoReflect(), path, true)
	if err != nil {
		return err
	}
	value, err := parseValue(field, text)
	if err != nil {
		return err
	}
	holder.Set(field, value)
	return nil
}

func parseValue(field protoreflect.FieldDescriptor, text string) (protoreflect.Value, error) {
	switch field.Kind() {
	case protoreflect.Int32Kind:
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return protoreflect.Value{}, fmt.Errorf("%q is not a whole number", text)
		}
		return protoreflect.ValueOfInt32(int32(n)), nil
	case protoreflect.DoubleKind:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return protoreflect.Value{}, fmt.Errorf("%q is not a number", text)
		}
		return protoreflect.ValueOfFloat64(f), nil
	case protoreflect.EnumKind:
		n, err := parseEnum(field.Enum(), text)
		return protoreflect.ValueOfEnum(n), err
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text), nil
	default:
		return protoreflect.Value{}, fmt.Errorf("settings of type %s are not known to this command", field.Kind())
	}
}

// clearPath unsets the setting or group at path.
func clearPath(config *granaryv1.Config, path string) error {
	holder, field, err := locate(config.ProtoReflect(), path, false)
	if err != nil {
		return err
	}
	if holder.IsValid() {
		holder.Clear(field)
	}
	return nil
}

// parseEnum reads a value's name, with or without the enum's prefix, in any
// case, with hyphens or underscores.
func parseEnum(enum protoreflect.EnumDescriptor, text string) (protoreflect.EnumNumber, error) {
	want := strings.ToUpper(strings.ReplaceAll(text, "-", "_"))
	values := enum.Values()
	var names []string
	for i := range values.Len() {
		v := values.Get(i)
		short := shortEnum(enum, v.Number())
		if v.Number() != 0 && (want == string(v.Name()) || want == short) {
			return v.Number(), nil
		}
		if v.Number() != 0 {
			names = append(names, flagName(short))
		}
	}
	return 0, fmt.Errorf("%q is not one of %s", text, strings.Join(names, ", "))
}

// shortEnum is a value's name without the prefix of its enum, which is the
// name of its zero value but for UNSPECIFIED.
func shortEnum(enum protoreflect.EnumDescriptor, n protoreflect.EnumNumber) string {
	v := enum.Values().ByNumber(n)
	if v == nil {
		return strconv.Itoa(int(n)) // from a newer server
	}
	prefix := strings.TrimSuffix(string(enum.Values().ByNumber(0).Name()), "UNSPECIFIED")
	return strings.TrimPrefix(string(v.Name()), prefix)
}

// flagName is how a shortEnum name or a field's name is written on a command line.
func flagName(name string) string {
	return strings.ToLower(strings.ReplaceAll(name, "_", "-"))
}

// settingPaths are all settings, in the order of the API.
func settingPaths() []string {
	var paths []string
	walkSettings((&granaryv1.Config{}).ProtoReflect(), "", func(path string, _ string) { paths = append(paths, path) })
	return paths
}

// walkSettings calls visit for each setting with its value, "" when unset.
func walkSettings(m protoreflect.Message, prefix string, visit func(path, value string)) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		path := prefix + string(field.Name())
		if field.Kind() == protoreflect.MessageKind {
			walkSettings(m.Get(field).Message(), path+".", visit)
			continue
		}
		value := ""
		if m.Has(field) {
			value = valueText(field, m.Get(field))
		}
		visit(path, value)
	}
}

func valueText(field protoreflect.FieldDescriptor, v protoreflect.Value) string {
	if field.Kind() == protoreflect.EnumKind {
		return flagName(shortEnum(field.Enum(), v.Enum()))
	}
	return v.String()
}
