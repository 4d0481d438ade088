FROM golang:1.26.8 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=devel
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /headrace ./cmd/headrace \
 && mkdir /data

FROM scratch
# The CA certificates are for NATS over TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /headrace /headrace
COPY --from=build --chown=65532:65532 /data /data
COPY LICENSE NOTICE /
USER 65532:65532
ENV HEADRACE_DATA=/data
VOLUME /data
EXPOSE 8000
ENTRYPOINT ["/headrace"]
CMD ["serve", "--addr", "0.0.0.0:8000"]
