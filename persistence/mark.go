package persistence

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/headrace/headrace/router"
)

// headerMark carries a router.KeyMark: fields separated by spaces, numbers in base
// 36, the places as differences (behind a tilde those relative to its own), the key as
// in a URL's query.
const headerMark = "Headrace-Key"

const markFields = 11

func encodeMark(m *router.KeyMark) string {
	b := make([]byte, 0, 96+len(m.Key)+4*len(m.Prev))
	number := func(n uint64) { b = append(strconv.AppendUint(b, n, 36), ' ') }
	number(m.Version)
	b = append(append(b, m.Life...), ' ')
	if m.Removed {
		b = append(b, 'r')
	} else {
		b = append(b, '-')
	}
	if m.Superseded {
		b = append(b, 's')
	}
	b = append(b, ' ')
	number(uint64(m.At))
	number(uint64(m.Expires))
	b = append(strconv.AppendInt(b, m.ClientTime, 36), ' ')
	number(uint64(m.Keys))
	for _, d := range m.Back {
		b = append(strconv.AppendUint(append(b, '~'), d, 36), ',')
	}
	for i, p := range m.Prev {
		if i > 0 {
			b = append(b, ',')
			p = m.Prev[i-1] - p
		}
		b = strconv.AppendUint(b, p, 36)
	}
	b = append(b, ' ')
	number(uint64(m.Group))
	number(uint64(m.More))
	return string(append(b, url.QueryEscape(m.Key)...))
}

var errMark = errors.New("decode entry: malformed key mark")

// decodeMark is the inverse of encodeMark.
func decodeMark(s string) (*router.KeyMark, error) {
	f := strings.Split(s, " ")
	if len(f) != markFields || len(s) > maxMark {
		return nil, errMark
	}
	var errs []error
	number := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 36, 63)
		errs = append(errs, err)
		return n
	}
	m := &router.KeyMark{
		Version: number(f[0]), Life: f[1], Removed: strings.HasPrefix(f[2], "r"), Superseded: strings.HasSuffix(f[2], "s"),
		At: int64(number(f[3])), Expires: int64(number(f[4])), Keys: int(number(f[6])),
		Group: int(number(f[8])), More: int(number(f[9])),
	}
	var err error
	m.ClientTime, err = strconv.ParseInt(f[5], 36, 64)
	errs = append(errs, err)
	places := strings.Split(f[7], ",")
	for strings.HasPrefix(places[0], "~") && len(places) > 1 {
		m.Back = append(m.Back, number(places[0][1:]))
		places = places[1:]
	}
	for i, p := range places {
		n := number(p)
		if i > 0 {
			if n > m.Prev[i-1] {
				return nil, errMark
			}
			n = m.Prev[i-1] - n
		}
		m.Prev = append(m.Prev, n)
	}
	m.Key, err = url.QueryUnescape(f[10])
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("decode entry: key mark: %w", err)
	}
	if m.Version == 0 || m.Life == "" || m.Key == "" || m.Group > maxGroup || m.More > maxGroup || len(m.Back) >= max(m.Group, 1) {
		return nil, errMark
	}
	for i, d := range m.Back {
		if d >= uint64(m.Group) || d == 0 || i > 0 && d <= m.Back[i-1] {
			return nil, errMark
		}
	}
	return m, nil
}

// maxMark bounds a mark in bytes: a key escaped, and MaxKeyHistory places.
const maxMark = 4096
