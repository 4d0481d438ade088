package edge

import "github.com/prometheus/client_golang/prometheus"

// reducedMetrics tell what deltas and compression save. Payloads are counted where
// they are made smaller, once however many clients get them, and also when that
// failed and they went as they were.
type reducedMetrics struct {
	deltaIn, deltaOut, deflateIn, deflateOut prometheus.Counter
}

func newReducedMetrics(r prometheus.Registerer) reducedMetrics {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "headrace_edge_reduced_bytes_total",
		Help: "Bytes before and after deltas and compression, counted once however many clients get them."}, []string{"by", "side"})
	if r != nil {
		r.MustRegister(v)
	}
	return reducedMetrics{
		deltaIn: v.WithLabelValues("delta", "before"), deltaOut: v.WithLabelValues("delta", "after"),
		deflateIn: v.WithLabelValues("deflate", "before"), deflateOut: v.WithLabelValues("deflate", "after"),
	}
}
