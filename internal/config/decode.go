package config

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxFileBytes bounds a configuration file. Nobody writes more by hand.
const maxFileBytes = 1 << 20

// maxDepth bounds nesting; the deepest key there is has three levels.
const maxDepth = 16

// decoder writes YAML nodes into a Config and remembers where each key was set.
type decoder struct {
	file     string // for messages
	problems []Problem
	origin   map[string]string // key path → where it was set
}

// decodeFile decodes data into cfg. What is wrong is in d.problems afterwards.
func (d *decoder) decodeFile(data []byte, cfg *Config) {
	if len(data) > maxFileBytes {
		d.add(nil, "", "file has %d bytes, more than %d", len(data), maxFileBytes)
		return
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		d.syntax(err)
		return
	}
	if len(file.Docs) > 1 && file.Docs[1].Body != nil {
		d.add(file.Docs[1].Body, "", "a second document; put everything into one")
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return
	}
	d.value(file.Docs[0].Body, reflect.ValueOf(cfg).Elem(), "", 0)
}

func (d *decoder) syntax(err error) {
	var syntax *yaml.SyntaxError
	if errors.As(err, &syntax) && syntax.Token != nil {
		pos := syntax.Token.Position
		d.problems = append(d.problems, Problem{Where: fmt.Sprintf("%s:%d:%d", d.file, pos.Line, pos.Column), What: syntax.Message})
		return
	}
	d.add(nil, "", "%v", err)
}

func (d *decoder) where(n ast.Node) string {
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return d.file
	}
	pos := n.GetToken().Position
	return fmt.Sprintf("%s:%d:%d", d.file, pos.Line, pos.Column)
}

func (d *decoder) add(n ast.Node, path, format string, args ...any) {
	d.problems = append(d.problems, Problem{Where: d.where(n), Key: path, What: fmt.Sprintf(format, args...)})
}

// value decodes n into v, which belongs to the key at path.
func (d *decoder) value(n ast.Node, v reflect.Value, path string, depth int) {
	if depth > maxDepth {
		d.add(n, path, "nested too deeply")
		return
	}
	switch n := n.(type) {
	case *ast.NullNode: // "key:" with nothing keeps the default
		return
	case *ast.CommentGroupNode:
		return
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode, *ast.TagNode, *ast.DirectiveNode:
		d.add(n, path, "anchors, aliases and tags are not supported; write the value out")
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.mapping(n, v, path, depth)
	case reflect.Slice:
		d.sequence(n, v, path, depth)
	default:
		d.scalar(n, v, path)
	}
}

// entries returns the pairs of a mapping node.
func entries(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

func (d *decoder) mapping(n ast.Node, v reflect.Value, path string, depth int) {
	pairs, ok := entries(n)
	if !ok {
		d.add(n, path, "is %s, want keys and values", describe(n))
		return
	}
	keys, index := fieldsOf(v.Type())
	for _, pair := range pairs {
		name := ""
		if t := pair.Key.GetToken(); t != nil {
			name = t.Value
		}
		i, known := index[name]
		if !known {
			where := "at the top level"
			if path != "" {
				where = "under " + path
			}
			d.add(pair.Key, "", "unknown key %q %s%s", name, where, suggest(name, keys))
			continue
		}
		child := join(path, name)
		if d.origin[child] != "" && strings.HasPrefix(d.origin[child], d.file+":") {
			d.add(pair.Key, child, "is given twice, first at %s", d.origin[child])
			continue
		}
		d.origin[child] = d.where(pair.Key)
		d.value(pair.Value, v.Field(i), child, depth+1)
	}
}

func (d *decoder) sequence(n ast.Node, v reflect.Value, path string, depth int) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.add(n, path, "is %s, want a list", describe(n))
		return
	}
	if len(seq.Values) == 0 {
		v.SetZero()
		return
	}
	out := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, item := range seq.Values {
		if e, ok := out.Index(i).Addr().Interface().(interface{ setDefaults() }); ok {
			e.setDefaults()
		}
		d.value(item, out.Index(i), fmt.Sprintf("%s[%d]", path, i), depth+1)
	}
	v.Set(out)
}

func (d *decoder) scalar(n ast.Node, v reflect.Value, path string) {
	text := ""
	switch n := n.(type) {
	case *ast.StringNode:
		text = n.Value
	case *ast.LiteralNode:
		text = n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		text = n.GetToken().Value
	default:
		d.add(n, path, "is %s, want %s", describe(n), typeName(v))
		return
	}
	_, quoted := n.(*ast.StringNode)
	if quoted && v.Kind() != reflect.String && v.Type() != durationType {
		d.add(n, path, "is the text %q, want %s", text, typeName(v))
		return
	}
	if err := setScalar(v, text); err != nil {
		d.add(n, path, "%v", err)
	}
}

var durationType = reflect.TypeFor[time.Duration]()

// setScalar parses text into v.
func setScalar(v reflect.Value, text string) error {
	switch {
	case v.Type() == durationType:
		dur, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is no duration; write a number with a unit, such as 25s, 5m or 24h", text)
		}
		v.SetInt(int64(dur))
	case v.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		v.SetBool(b)
	case v.Kind() == reflect.Int:
		i, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 10, 64)
		if err != nil || i > math.MaxInt32 || i < math.MinInt32 {
			return fmt.Errorf("%q is no whole number between -2147483648 and 2147483647", text)
		}
		v.SetInt(i)
	case v.Kind() == reflect.Int64:
		i, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 10, 64)
		if err != nil {
			return fmt.Errorf("%q is no whole number", text)
		}
		v.SetInt(i)
	case v.Kind() == reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return fmt.Errorf("%q is no number, such as 0.5", text)
		}
		v.SetFloat(f)
	case v.Kind() == reflect.String:
		v.SetString(text)
	default:
		return fmt.Errorf("a value of type %s cannot be set", v.Type())
	}
	return nil
}

func typeName(v reflect.Value) string {
	switch {
	case v.Type() == durationType:
		return "a duration such as 25s"
	case v.Kind() == reflect.Bool:
		return "true or false"
	case v.Kind() == reflect.Int, v.Kind() == reflect.Int64:
		return "a whole number"
	case v.Kind() == reflect.Float64:
		return "a number such as 0.5"
	default:
		return "a text"
	}
}

func describe(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a group of keys"
	case *ast.SequenceNode:
		return "a list"
	default:
		return "a single value"
	}
}
