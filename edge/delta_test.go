package edge

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// counted returns the value of a counter.
func counted(c prometheus.Counter) float64 {
	var m dto.Metric
	if c.Write(&m) != nil {
		return -1
	}
	return m.GetCounter().GetValue()
}

func byteSize(n int) string { return fmt.Sprintf("%d_bytes", n) }

// document is JSON of about size bytes.
func document(size int) []byte {
	var b strings.Builder
	b.WriteString(`[{"id":0}`)
	for i, x := 1, uint32(7); b.Len() < size-1; i++ {
		x = x*1664525 + 1013904223
		fmt.Fprintf(&b, `,{"id":%d,"name":"item %x","price":%d.5,"tags":["a","b"]}`, i, x, x>>20)
	}
	return []byte(b.String() + "]")
}

var _ = testing.Short
