package config

import (
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// redacted stands for a secret that is set.
const redacted = "(redacted)"

// Print writes cfg as YAML that Load reads back, secrets aside.
func Print(w io.Writer, cfg Config) error {
	var b strings.Builder
	printStruct(&b, reflect.ValueOf(cfg), "")
	_, err := io.WriteString(w, b.String())
	return err
}

func printStruct(b *strings.Builder, v reflect.Value, indent string) {
	for i := range v.NumField() {
		f, value := v.Type().Field(i), v.Field(i)
		key := indent + f.Tag.Get("yaml") + ":"
		switch {
		case f.Type.Kind() == reflect.Struct:
			fmt.Fprintf(b, "%s\n", key)
			printStruct(b, value, indent+"  ")
		case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct && value.Len() > 0:
			fmt.Fprintf(b, "%s\n", key)
			for j := range value.Len() {
				var item strings.Builder
				printStruct(&item, value.Index(j), indent+"    ")
				b.WriteString(strings.Replace(item.String(), indent+"    ", indent+"  - ", 1))
			}
		case f.Tag.Get("secret") != "" && !value.IsZero():
			fmt.Fprintf(b, "%s %s\n", key, secretText(f.Tag.Get("secret"), value))
		default:
			fmt.Fprintf(b, "%s %s\n", key, scalarText(value))
		}
	}
}

// scalarText is a value as YAML. Texts are quoted, as JSON strings are YAML.
func scalarText(v reflect.Value) string {
	switch {
	case v.Type() == durationType:
		return shortDuration(time.Duration(v.Int()))
	case v.Kind() == reflect.String:
		return strconv.Quote(v.String())
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.String:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = strconv.Quote(v.Index(i).String())
		}
		return "[" + strings.Join(items, ", ") + "]"
	case v.Kind() == reflect.Slice:
		return "[]"
	default:
		return fmt.Sprint(v.Interface())
	}
}

// shortDuration is d without the zero parts that time.Duration prints: 5m, not 5m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
