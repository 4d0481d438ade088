package embednats

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
)

// natsLog passes the server's log on to slog. Notices become debug: a start
// alone makes thirty of them.
type natsLog struct {
	log   *slog.Logger
	fatal atomic.Pointer[string] // the last fatal message
}

func (l *natsLog) write(level slog.Level, format string, v []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, fmt.Sprintf(format, v...))
	}
}

func (l *natsLog) Noticef(format string, v ...any) { l.write(slog.LevelDebug, format, v) }
func (l *natsLog) Warnf(format string, v ...any)   { l.write(slog.LevelWarn, format, v) }
func (l *natsLog) Errorf(format string, v ...any)  { l.write(slog.LevelError, format, v) }
func (l *natsLog) Debugf(format string, v ...any)  { l.write(slog.LevelDebug, format, v) }
func (l *natsLog) Tracef(format string, v ...any)  { l.write(slog.LevelDebug, format, v) }

// Fatalf keeps the message for Start. It does not exit: that is main's business.
func (l *natsLog) Fatalf(format string, v ...any) {
	msg := fmt.Sprintf(format, v...)
	l.fatal.Store(&msg)
	l.log.Error(msg)
}
